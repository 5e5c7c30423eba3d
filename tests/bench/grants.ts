/** What it costs to grant each chunk of a file by a key of its own, on Soft-RoCE. */
import type { Memory } from "../../ffi/memory.ts";
import type { Device } from "../../lib/rdma/device.ts";
import { LocalDataPath } from "../../lib/session/local_data_path.ts";
import type { LentBuffer } from "../../lib/session/service.ts";
import { startServer } from "../cli/run.ts";
import { randomFile, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { OwnClient, type OwnParts } from "../session/own_client.ts";
import { type Carrier, type Figure, MEGABYTE } from "./figure.ts";
import type { Direction } from "./file_transfers.ts";
import { measureInTurn } from "./in_turn.ts";

const runs = 5;
const size = 16 * MEGABYTE;

type OpenDataPath = Required<OwnParts>["openDataPath"];

/** One whose grants never end: the bound that a grant for each chunk is measured by. */
class LendingForGood extends LocalDataPath {
  override lend(memory: Memory, offset?: number, length?: number): LentBuffer {
    const access = ["LOCAL_WRITE", "REMOTE_READ", "REMOTE_WRITE"] as const;
    const region = this.registerMemory(memory, access, offset, length);
    return {
      address: region.address,
      grant: () => Promise.resolve(region.rkey),
      withdraw: () => Promise.resolve(),
      [Symbol.dispose]: () => region[Symbol.dispose](),
    };
  }
}

/** Grants by windows, or by registrations, whatever the device guards. */
function granting(guardsMemoryWindows: boolean): OpenDataPath {
  return (device: Device, ...made) =>
    new LocalDataPath(Object.assign(device, { guardsMemoryWindows }), ...made);
}

const ways: readonly [Carrier, OpenDataPath][] = [
  ["rdma, by windows", granting(true)],
  ["rdma, by registrations", granting(false)],
];

/** Both ways to grant, each beside one registration for the whole of a transfer. */
export async function* granted(direction: Direction): AsyncGenerator<Figure> {
  await using workspace = await Workspace.create();
  await using server = await startServer(workspace.path, [
    ...["--device", provider.device, "--root", workspace.root, "--seal", "off"],
  ]);
  await randomFile(workspace.file("sent"), size);
  await Deno.copyFile(workspace.file("sent"), `${workspace.root}/file`);
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  await using sessions = new AsyncDisposableStack();
  const open = async (openDataPath: OpenDataPath) => {
    const address = { hostname: provider.address, port: server.port };
    const parts = { seals: ["off"], openDataPath } as const;
    const client = sessions.use(await OwnClient.open(address, authority, parts));
    const move = () => transfer(direction, client, workspace);
    // The first transfer also has code compiled.
    await move();
    return move;
  };
  const theirs = await open((...made) => new LendingForGood(...made));
  for (const [transport, openDataPath] of ways) {
    const ours = await open(openDataPath);
    const peer = "one registration";
    const subject = { bench: `grants.${direction}`, size, transport, peer, unit: "MB/s" } as const;
    yield await measureInTurn({ subject: { ...subject, settings }, runs, ours, theirs });
  }
}

/** @returns MB/s */
async function transfer(
  direction: Direction,
  { session, files }: OwnClient,
  workspace: Workspace,
): Promise<number> {
  const started = performance.now();
  await session.during(
    direction === "put"
      ? files.put(session, workspace.file("sent"), "put")
      : files.get(session, "file", workspace.file("back")),
  );
  return size / MEGABYTE / ((performance.now() - started) / 1000);
}

const settings =
  `one file of ${size / MEGABYTE} MiB in chunks of 512 KiB between two processes on ` +
  `${provider.device}, unsealed; MB of 2^20 bytes; a grant for each chunk, by a memory window or ` +
  "by a registration of its own; one registration: the buffers stay open all the time; medians of " +
  `${runs} runs each, in turn`;
