import { assertEquals } from "@std/assert";
import { serverTest } from "../own_server.ts";
import { randomFile, sha256 } from "../program.ts";

serverTest(
  "the connection manager brings queue pairs up with the PSNs agreed in TLS",
  async (workspace, server) => {
    const echo = await workspace.client(server, "echo", ["managed", "--connect", "cm"]);
    assertEquals([echo.status, echo.records[0]?.answer], [0, "managed"], echo.stderr);
    await randomFile(workspace.file("file"), 1_000_000);
    const put = await workspace.client(server, "put", ["file", "--connect", "cm"]);
    assertEquals(put.status, 0, put.stderr);
    assertEquals(await sha256(`${workspace.root}/file`), await sha256(workspace.file("file")));
  },
  ["--connect", "cm"],
);
