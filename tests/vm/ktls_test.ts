/** The kernel of the guest seals and opens the records of data connections (kTLS). */
import { assert, assertEquals } from "@std/assert";
import type { Client } from "../../lib/services/client.ts";
import { kernelTlsStatistics } from "../../lib/tls/kernel_statistics.ts";
import { openClient } from "../client.ts";
import { serverTest } from "../own_server.ts";
import { randomFile, type Workspace } from "../program.ts";
import { dataPair } from "../session/tls_pair.ts";

const FILE_BYTES = 256 * 2 ** 20;

const { success } = await new Deno.Command("modprobe", { args: ["tls"] }).output();
assert(success, "the kernel has its module tls");
// Deno's check for leaks wants libraries and their callbacks there before the first test.
(await dataPair())[Symbol.dispose]();

/**
 * Puts a file and gets it back. Both sides hash what they move; nothing else does, as the guest's
 * processor is emulated.
 */
async function thereAndBack(client: Client, workspace: Workspace): Promise<void> {
  const { session, files } = client;
  const [sent, back] = [workspace.file("sent"), workspace.file("back")];
  await randomFile(sent, FILE_BYTES);
  const { sha256 } = await session.during(files.put(session, sent, "file"));
  assertEquals((await session.during(files.get(session, "file", back))).sha256, sha256);
  const { success } = await new Deno.Command("cmp", { args: [sent, back] }).output();
  assert(success, "the file is what it was");
}

serverTest("256 MiB go both ways, sealed and opened by the kernel", async (workspace, server) => {
  const before = kernelTlsStatistics();
  {
    await using client = await openClient(workspace, server, { transports: ["ktls"] });
    const { agreed } = client.session;
    assert(agreed.transport === "ktls");
    assertEquals(agreed.kernel, { send: true, receive: true });
    const line = await server.logged(({ message }) => message === "session established");
    assertEquals(line.ktls, "tx=yes rx=yes");
    await thereAndBack(client, workspace);
  }
  const after = kernelTlsStatistics();
  for (const name of ["TlsTxSw", "TlsRxSw"]) {
    assertEquals(after[name]! - before[name]!, 2, `${name}: both ends of one connection`);
  }
  assertEquals(after.TlsDecryptError, before.TlsDecryptError);
}, ["--transport", "ktls"]);

serverTest("256 MiB go both ways while connections are replaced", async (workspace, server) => {
  const before = kernelTlsStatistics();
  {
    const options = { transports: ["ktls"], rekeyBytes: 32 * 2 ** 20 } as const;
    await using client = await openClient(workspace, server, options);
    await thereAndBack(client, workspace);
  }
  const after = kernelTlsStatistics();
  const ends = after.TlsTxSw! - before.TlsTxSw!;
  assert(ends >= 2 * 8, `${ends} ends of connections`);
  assertEquals(after.TlsDecryptError, before.TlsDecryptError);
}, ["--transport", "ktls"]);
