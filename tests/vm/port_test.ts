import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { RdmaError } from "../../lib/errors.ts";
import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import { eventually } from "../program.ts";
import { rxe } from "../provider.ts";
import {
  assertFailed,
  command,
  failureTest,
  nextReason,
  Shared,
} from "../session/failure_scene.ts";

/** Waits until the port is active and has its address. */
async function portIsBack(): Promise<void> {
  const ready = () => {
    using device = new VerbsDevice(rxe.device);
    const [port] = device.ports();
    return port?.state === "ACTIVE" &&
      port.gids.some(({ gid }) => gid === `::ffff:${rxe.address}`);
  };
  await eventually("the port is back", ready, 10_000);
}

failureTest(
  "a port that goes down ends its sessions, and serves again when it is up",
  async (scene) => {
    const { server } = Shared.current;
    const { session } = await scene.client(server);
    const ended = assertRejects(() => session.during(new Promise(() => {})), RdmaError);
    const reason = nextReason(server);
    await command("ip", "link", "set", "v0", "down");
    try {
      assertEquals(await reason, "ibv_event_port_err");
      assertStringIncludes((await ended).message, "PORT_ERR");
      assertFailed(await scene.run(server, "echo", "hello"), 4, "ip link set");
    } finally {
      await command("ip", "link", "set", "v0", "up");
      await command("ip", "addr", "replace", "fd09::1/64", "dev", "v0", "nodad");
      await portIsBack();
    }
    const next = await scene.client(server);
    assertEquals(await next.messages.ask("ECHO", new Uint8Array(3)), new Uint8Array(3));
  },
);
