/** A client with grants outstanding in both directions, until it is killed: `granted_client.ts PORT CA`. */
import { openDevice } from "../../lib/rdma/provider.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { provider } from "../provider.ts";
import { HostileClient } from "../session/hostile_client.ts";
import { grant } from "./lent_memory.ts";

const [port, authority] = Deno.args as [string, string];
using device = openDevice(provider.device, { standardPort: false });
using client = await HostileClient.connect(
  { port: Number(port) },
  await Deno.readTextFile(authority),
  device,
);
await client.establish();
await grant(client, "write", 0, 4096);
const { window } = client;
await client.request("files", { operation: "put", transfer: 1, path: "half", size: "10", window });
await client.message(MessageKind.FILE_BUFFER_FREE);
console.log("granted");
await client.farewell();
