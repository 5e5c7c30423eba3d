import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { randomFile, type Run, run, RunningServer, sha256, Workspace } from "../program.ts";
import { provider } from "../provider.ts";

/** A file of no content where the dynamic linker looks first: libcrypto cannot be loaded. */
const noLibrary = await Deno.makeTempDir({ prefix: "verbseal-" });
await Deno.writeFile(join(noLibrary, "libcrypto.so.3"), new Uint8Array());

Deno.test.afterAll(() => Deno.remove(noLibrary, { recursive: true }));

const installed: Record<string, string> = {};
const missing = { LD_LIBRARY_PATH: noLibrary };

/** Whether a process has libcrypto in its memory. */
async function hasLibcrypto(pid: number): Promise<boolean> {
  return (await Deno.readTextFile(`/proc/${pid}/maps`)).includes("libcrypto.so");
}

for (
  const [who, ofServer, ofClient] of [
    ["a client without libcrypto and a server with it", installed, missing],
    ["a server without libcrypto and a client with it", missing, installed],
  ] as const
) {
  Deno.test(`${who} seal messages and a file for each other`, async () => {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, [], ofServer);
    const client = async (command: string, ...args: string[]): Promise<Run> => {
      const target = [`${provider.address}:${server.port}`, "--device", provider.device];
      const trust = ["--ca", workspace.file("certs/ca.pem"), "--json"];
      const options = { cwd: workspace.path, environment: ofClient };
      const ended = await run(["client", command, ...target, ...args, ...trust], options);
      assertEquals(ended.status, 0, ended.stderr);
      return ended;
    };
    const { records: [echo] } = await client("echo", "x".repeat(20_000));
    assertEquals(echo?.answer, "x".repeat(20_000));
    assert((echo!.session as { seal: string }).seal !== "off");
    // Files are hashed by libcrypto too.
    assertEquals(await hasLibcrypto(server.pid), ofServer === installed);
    await randomFile(workspace.file("file"), 600_000);
    await client("put", "file");
    assertEquals(await sha256(join(workspace.root, "file")), await sha256(workspace.file("file")));
    assertEquals(await server.stop(), 0);
  });
}
