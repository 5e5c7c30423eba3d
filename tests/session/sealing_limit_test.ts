import { assertEquals, assertRejects } from "@std/assert";
import { setImmediate } from "node:timers/promises";
import { TlsError } from "../../lib/errors.ts";
import { LimitedStream } from "../../lib/session/sealing_limit.ts";
import type { DataStream } from "../../lib/tls/connection.ts";

/** A stream on which everything succeeds at once. */
const endless: DataStream = {
  kernel: { send: true, receive: true },
  read: (buffer) => Promise.resolve(buffer.length),
  write: () => Promise.resolve(),
  sendFile: () => Promise.resolve(),
  close: () => Promise.resolve(),
  abort: () => {},
};

async function isDue(stream: LimitedStream): Promise<boolean> {
  let due = false;
  stream.due.then(() => due = true);
  await setImmediate();
  return due;
}

Deno.test("a connection is due for replacement after so many bytes, both ways together", async () => {
  const stream = new LimitedStream(endless, 1000);
  await stream.write(new Uint8Array(400));
  await stream.read(new Uint8Array(400));
  assertEquals(await isDue(stream), false);
  await stream.sendFile(0, 0, 200);
  assertEquals(await isDue(stream), true);
});

Deno.test("short messages wear keys out too: each is a record", async () => {
  const stream = new LimitedStream(endless, 2 ** 36);
  const record = new Uint8Array(1);
  for (let count = 1; count < 2 ** 23; count++) stream.write(record);
  assertEquals(await isDue(stream), false);
  await stream.write(record);
  assertEquals(await isDue(stream), true);
});

Deno.test("a connection that nobody replaces ends before AES-GCM is worn out", async () => {
  const stream = new LimitedStream(endless, 2 ** 36);
  const most = Math.floor(2 ** 24.5) * 2 ** 14;
  await stream.sendFile(0, 0, most);
  const error = await assertRejects(() => Promise.try(() => stream.sendFile(0, 0, 1)), TlsError);
  assertEquals(error.code, "rekey_overdue");
});
