import { assert, assertEquals } from "@std/assert";
import type { StreamPath } from "../../lib/session/data_path.ts";
import type { StreamEstablished } from "../../lib/session/session_path.ts";
import type { StreamLink } from "../../lib/session/stream_link.ts";
import { StreamSessionPath } from "../../lib/session/stream_session_path.ts";
import type { KernelTls } from "../../lib/tls/connection.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";

const sealing = { send: true, receive: true };

/** A path whose connections are replaced one after the other, with a kernel that does this. */
async function renewed(...states: KernelTls[]): Promise<StreamSessionPath> {
  const all = Promise.withResolvers<void>();
  const path = {
    failure: new Promise<never>(() => {}),
    renewalDue() {
      if (states.length > 0) return Promise.resolve();
      all.resolve();
      return new Promise<void>(() => {});
    },
    use: () => Promise.resolve(states.shift()!),
  } as unknown as StreamPath;
  const link = { next: () => Promise.resolve({}) } as unknown as StreamLink;
  const agreed = { session: "session", kernel: sealing } as StreamEstablished;
  const session = new StreamSessionPath(path, link, agreed);
  await all.promise;
  return session;
}

Deno.test("a kernel that no longer does what it did is warned of once", async () => {
  using log = new CapturedLog();
  const lost = { send: true, receive: false };
  const { agreed } = await renewed(sealing, lost, lost);
  assertEquals(log.lines("ktls", "before").length, 1);
  const [line] = log.lines("ktls", "before");
  assert(line!.endsWith("tx=yes rx=no tx=yes rx=yes"), line);
  assertEquals(agreed.kernel, lost);
});

Deno.test("a kernel that does again what it did not is no warning", async () => {
  using log = new CapturedLog();
  const { agreed } = await renewed({ send: false, receive: false }, sealing);
  assertEquals(log.lines("ktls").length, 1);
  assertEquals(agreed.kernel, sealing);
});
