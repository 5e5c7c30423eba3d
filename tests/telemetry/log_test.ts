import { Buffer } from "node:buffer";
import { assertEquals, assertMatch } from "@std/assert";
import type { LogRecord } from "@logtape/logtape";
import { jsonLine, textLine } from "../../lib/telemetry/log.ts";

function record(message: string, properties: Record<string, unknown> = {}): LogRecord {
  return {
    category: ["verbseal", "session"],
    level: "info",
    message: [message],
    rawMessage: message,
    timestamp: 0,
    properties,
  };
}

const head = "1970-01-01T00:00:00.000Z info verbseal.session";

Deno.test("a line for people has time, level, category, message and fields", () => {
  const fields = {
    peer: "[::1]:4433",
    qpn: 17,
    size: 2n ** 64n,
    reason: "no room",
    gone: undefined,
  };
  assertEquals(
    textLine(record("session opened", fields)),
    `${head} session opened peer=[::1]:4433 qpn=17 size=18446744073709551616 ` +
      'reason="no room" gone=null',
  );
});

Deno.test("a line for machines is one JSON object whose head no field replaces", () => {
  const fields = { peer: "a", size: 2n, error: new TypeError("no"), time: "never", level: "none" };
  assertEquals(JSON.parse(jsonLine(record("opened", fields))), {
    time: "1970-01-01T00:00:00.000Z",
    level: "info",
    category: "verbseal.session",
    message: "opened",
    peer: "a",
    size: "2",
    error: "TypeError: no",
  });
});

Deno.test("what a peer sends cannot begin a line, move the cursor or pass for a field", () => {
  const hostile = 'x\n2026 info all is well\r\x1b[2J\x9b2J\u2028\u202e\u{e0041} admin=yes "';
  for (const line of [textLine, jsonLine]) {
    const written = line(record(hostile, { name: hostile, [hostile]: 1 }));
    assertEquals(written.match(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u), null, written);
  }
  assertMatch(textLine(record("m", { name: 'a" b=c' })), / name="a\\" b=c"$/);
  assertEquals(JSON.parse(jsonLine(record("m", { name: hostile }))).name, hostile);
});

Deno.test("no secret is written, whatever it hangs on", () => {
  const fields = {
    password: "hunter2",
    sessionSecret: "hunter2",
    rkey: "hunter2",
    privateKeys: ["hunter2"],
    nested: { deep: [{ token: "hunter2" }] },
    bytes: new TextEncoder().encode("hunter2"),
    node: Buffer.from("hunter2"),
    raw: new TextEncoder().encode("hunter2").buffer,
    keyFile: "certs/server.key",
  };
  const hidden = /hunter2|104|aHVudGVyMg/;
  const text = textLine(record("m", fields));
  assertEquals(text.match(hidden), null, text);
  assertMatch(text, / bytes="\[7 bytes\]".* keyFile=certs\/server.key$/);
  assertEquals(jsonLine(record("m", fields)).match(hidden), null);
});

Deno.test("a worker logs in the format and from the level that it is given", async () => {
  const script = new URL("./log_in_worker.ts", import.meta.url).pathname;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script],
  }).output();
  const lines = new TextDecoder().decode(stderr).trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.map(({ level, message, worker }) => [level, message, worker]), [
    ["warning", "heard", true],
    ["warning", "heard", false],
  ]);
  assertEquals(stdout.length, 0);
});
