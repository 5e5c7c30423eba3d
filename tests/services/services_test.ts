import { assert, assertEquals, assertRejects } from "@std/assert";
import { RefusedError, VerbsealError } from "../../lib/errors.ts";
import type { SealMode } from "../../lib/session/sealing.ts";
import { openClient } from "../client.ts";
import { serverTest } from "../own_server.ts";
import { randomFile, type RunningServer, sha256, type Workspace } from "../program.ts";

serverTest("the program asks, writes, puts and gets", async (workspace, server) => {
  const echo = await workspace.client(server, "echo", ["hello"]);
  assertEquals([echo.status, echo.records[0]?.answer], [0, "hello"], echo.stderr);
  const outside = ["12345678", "--offset", String(2 ** 20 - 4)];
  assertEquals((await workspace.client(server, "write", outside)).status, 5);

  await randomFile(workspace.file("file"), 300_000);
  const put = await workspace.client(server, "put", ["file"]);
  assertEquals([put.status, put.records[0]?.bytes], [0, 300_000], put.stderr);
  const get = await workspace.client(server, "get", ["file", "copy"]);
  assertEquals(get.status, 0, get.stderr);
  const hashes = await Promise.all(
    [workspace.file("file"), `${workspace.root}/file`, workspace.file("copy")].map(sha256),
  );
  assertEquals(hashes, hashes.map(() => put.records[0]?.sha256));
});

for (const seal of ["required", "off"] as const) {
  serverTest(
    `a session answers messages, and moves memory and files, sealed: ${seal}`,
    (workspace, server) => useAll(workspace, server, seal),
    ["--seal", seal],
  );
}

async function useAll(workspace: Workspace, server: RunningServer, seal: SealMode): Promise<void> {
  await using client = await openClient(workspace, server, { seal });
  const { session, messages, memory, files } = client;
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const ask = (question: "ECHO" | "REVERSE" | "TIME", body: Uint8Array) =>
    session.during(messages.ask(question, body));

  assertEquals(text(await ask("REVERSE", new TextEncoder().encode("Grüße"))), "eßürG");
  const time = text(await ask("TIME", new Uint8Array(0)));
  const skew = Math.abs(Date.parse(time) - Date.now());
  assert(skew < 60_000, `server time is ${skew} ms off`);
  const large = new Uint8Array(2 ** 20);
  for (let at = 0; at < large.length; at += 65536) {
    crypto.getRandomValues(large.subarray(at, at + 65536));
  }
  assertEquals(await ask("ECHO", large), large);
  const tooLarge = new Uint8Array(2 ** 20 + 1);
  await assertRejects(async () => await ask("ECHO", tooLarge), VerbsealError, "1048577 bytes");

  await session.during(memory.write(session, 5000, large.subarray(0, 10_000)));
  assertEquals(
    await session.during(memory.read(session, 5001, 9999)),
    large.slice(1, 10_000),
  );
  await assertRejects(
    () => memory.write(session, 2 ** 20 - 4, large.subarray(0, 8)),
    RefusedError,
  );

  await session.during(memory.write(session, 0, large));
  assertEquals(await session.during(memory.read(session, 1, 2 ** 20 - 1)), large.slice(1));
  const zeros = new Uint8Array(2 ** 20);
  await assertRejects(() => memory.write(session, 1, zeros), RefusedError, "not within");
  assertEquals(await session.during(memory.read(session, 0, 2 ** 20)), large);

  for (const bytes of [0, 1, 258_048, 258_049, 262145, 3_000_000]) {
    const [sent, back] = [workspace.file("sent"), workspace.file("back")];
    await randomFile(sent, bytes);
    const hash = await sha256(sent);
    const name = `file-${bytes}`;
    assertEquals((await session.during(files.put(session, sent, name))).sha256, hash);
    assertEquals(await sha256(`${workspace.root}/${name}`), hash);
    assertEquals((await session.during(files.get(session, name, back))).sha256, hash);
    assertEquals(await sha256(back), hash);
  }
  const left = [...Deno.readDirSync(workspace.root)].map(({ name }) => name);
  assertEquals(left.filter((name) => name.startsWith(".")), []);
}
