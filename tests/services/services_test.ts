import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { openClient } from "../client.ts";
import { serverTest } from "../own_server.ts";
import { randomFile, sha256 } from "../program.ts";

serverTest(
  "a session answers messages, moves memory and files, and leaves nothing",
  async (workspace, server) => {
    const echo = await workspace.client(server, "echo", ["hello"]);
    assertEquals([echo.status, echo.records[0]?.answer], [0, "hello"], echo.stderr);
    const reverse = await workspace.client(server, "reverse", ["Grüße"]);
    assertEquals(reverse.records[0]?.answer, "eßürG");
    const time = await workspace.client(server, "time");
    const skew = Math.abs(Date.parse(time.records[0]?.answer as string) - Date.now());
    assert(skew < 60_000, `server time is ${skew} ms off`);

    const large = crypto.getRandomValues(new Uint8Array(65536));
    const message = new Uint8Array(2 ** 20);
    for (let at = 0; at < message.length; at += large.length) message.set(large, at);
    const back = await workspace.client(server, "echo", [], { stdin: message });
    assertEquals(back.records[0]?.bytes, 2 ** 20);
    const tooLarge = await workspace.client(server, "echo", [], {
      stdin: new Uint8Array(2 ** 20 + 1),
    });
    assertNotEquals(tooLarge.status, 0);

    await randomFile(workspace.file("file"), 300_000);
    const put = await workspace.client(server, "put", ["file"]);
    assertEquals([put.status, put.records[0]?.bytes], [0, 300_000], put.stderr);
    const get = await workspace.client(server, "get", ["file", "copy"]);
    assertEquals(get.status, 0, get.stderr);
    const hashes = await Promise.all(
      [workspace.file("file"), `${workspace.root}/file`, workspace.file("copy")].map(sha256),
    );
    assertEquals(hashes, hashes.map(() => put.records[0]?.sha256));

    const written = await workspace.client(server, "write", ["some bytes", "--offset", "5000"]);
    assertEquals([written.status, written.records[0]?.bytes], [0, 10], written.stderr);
    const outside = await workspace.client(server, "write", [
      "12345678",
      "--offset",
      String(2 ** 20 - 4),
    ]);
    assertEquals(outside.status, 5);
  },
);

serverTest(
  "files of all sizes come back as they went, and appear only whole",
  async (workspace, server) => {
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    await using client = await openClient(authority, server);
    const { session, files } = client;
    for (const bytes of [0, 1, 262145, 3_000_000]) {
      const [sent, name, back] = [
        workspace.file(`${bytes}`),
        `file-${bytes}`,
        workspace.file("back"),
      ];
      await randomFile(sent, bytes);
      const hash = await sha256(sent);
      const put = await session.during(files.put(session, sent, name));
      assertEquals(put.sha256, hash);
      assertEquals(await sha256(`${workspace.root}/${name}`), hash);
      const got = await session.during(files.get(session, name, back));
      assertEquals(got.sha256, hash);
      assertEquals(await sha256(back), hash);
    }
    const left = [...Deno.readDirSync(workspace.root)].map(({ name }) => name);
    assertEquals(left.filter((name) => name.startsWith(".")), []);
  },
);
