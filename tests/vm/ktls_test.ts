/** The kernel of the guest seals and opens the records of data connections (kTLS). */
import { assert, assertEquals } from "@std/assert";
import type { Client } from "../../lib/services/client.ts";
import { kernelTlsStatistics } from "../../lib/tls/kernel_statistics.ts";
import { openClient } from "../client.ts";
import { serverTest } from "../own_server.ts";
import { randomFile, type Workspace } from "../program.ts";
import { SendfileCalls } from "./sendfile_calls.ts";
import { dataPair } from "../session/tls_pair.ts";

const FILE_BYTES = 256 * 2 ** 20;
const REKEY_BYTES = 8 * 2 ** 20;
/** Of a file that needs some connections: as the next one is made data goes on, so not eight. */
const REKEYED_FILE_BYTES = 8 * REKEY_BYTES;

const { success } = await new Deno.Command("modprobe", { args: ["tls"] }).output();
assert(success, "the kernel has its module tls");
// Deno's check for leaks wants libraries and their callbacks there before the first test.
await (await dataPair())[Symbol.asyncDispose]();

/** What the kernel has counted meanwhile. */
function countedSince(before: Readonly<Record<string, number>>, name: string): number {
  return kernelTlsStatistics()[name]! - before[name]!;
}

/**
 * Puts a file of so many bytes and gets it back. Both sides hash what they move; nothing else does, as the guest's
 * processor is emulated.
 *
 * @param onPut is called in between
 */
async function thereAndBack(
  client: Client,
  workspace: Workspace,
  fileBytes: number,
  onPut: () => void = () => {},
): Promise<void> {
  const { session, files } = client;
  const [sent, back] = [workspace.file("sent"), workspace.file("back")];
  await randomFile(sent, fileBytes);
  const { sha256 } = await session.during(files.put(session, sent, "file"));
  onPut();
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
    await using calls = await SendfileCalls.count();
    await thereAndBack(client, workspace, FILE_BYTES, () => assertEquals(calls.bytes, 0));
    assert(calls.bytes >= FILE_BYTES, `a get is SSL_sendfile, of ${calls.bytes} bytes`);
  }
  for (const name of ["TlsTxSw", "TlsRxSw"]) {
    assertEquals(countedSince(before, name), 2, `${name}: both ends of one connection`);
  }
  assertEquals(countedSince(before, "TlsDecryptError"), 0);
}, ["--transport", "ktls"]);

serverTest("64 MiB go both ways while connections are replaced", async (workspace, server) => {
  const before = kernelTlsStatistics();
  const ends = ["TlsTxSw", "TlsRxSw"].map((name) => () => countedSince(before, name));
  /** Of four connections. */
  const least = 8;
  {
    const options = { transports: ["ktls"], rekeyBytes: REKEY_BYTES } as const;
    await using client = await openClient(workspace, server, options);
    let put = [0, 0];
    await thereAndBack(client, workspace, REKEYED_FILE_BYTES, () => {
      put = ends.map((count) => count());
    });
    assert(put.every((count) => count >= least), `${put} ends of connections for the put`);
    const got = ends.map((count, index) => count() - put[index]!);
    assert(got.every((count) => count >= least - 2), `${got} ends of connections for the get`);
  }
  assertEquals(countedSince(before, "TlsDecryptError"), 0);
}, ["--transport", "ktls"]);
