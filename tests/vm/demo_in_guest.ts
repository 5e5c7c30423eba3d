/** The demonstration itself, in the guest, by the compiled program. */
import { guestAddress, randomFile, type Run, RunningServer, sha256, Workspace } from "./program.ts";

type Numbers = { qpn: number; psn: number; gid: string };

/** The mark tells the demonstration's lines from the kernel's. */
function say(line = ""): void {
  console.log(`| ${line}`);
}

function hex(number: number): string {
  return `0x${number.toString(16).padStart(6, "0")}`;
}

function numbers({ qpn, psn, gid }: Numbers): string {
  return `QPN ${hex(qpn)}  PSN ${hex(psn)}  GID ${gid}`;
}

/** Fails loudly: a demonstration that shows nothing must not look as if it did. */
function expect(run: Run): Record<string, unknown> {
  if (run.status !== 0) throw new Error(`exit ${run.status}: ${run.stderr}`);
  return run.records[0]!;
}

function showSession(name: string, record: Record<string, unknown>): void {
  const { id, local, remote } = record.session as { id: string; local: Numbers; remote: Numbers };
  say(`  ${name}  session ${id}`);
  say(`    client  ${numbers(local)}`);
  say(`    server  ${numbers(remote)}`);
}

async function client(workspace: Workspace, server: RunningServer, name: string, bytes: number) {
  await randomFile(workspace.file(name), bytes);
  const put = expect(await workspace.client(server, "put", [name]));
  const get = expect(await workspace.client(server, "get", [name, `${name}.back`]));
  const echo = expect(await workspace.client(server, "echo", [`hello from ${name}`]));
  const hashes = await Promise.all(
    [workspace.file(name), `${workspace.root}/${name}`, workspace.file(`${name}.back`)].map(sha256),
  );
  if (new Set(hashes).size !== 1) throw new Error(`hashes differ: ${hashes}`);
  return { name, put, get, echo, hash: hashes[0]! };
}

await using workspace = await Workspace.create();
await using server = await RunningServer.start(workspace);
say(`Server on ${guestAddress}:${server.port}, TLS with a certificate of its own authority`);
say(`Two clients at once: each puts a file, gets it back, and sends a message`);
say();
const clients = await Promise.all([
  client(workspace, server, "client-1", 4_000_000),
  client(workspace, server, "client-2", 2_500_000),
]);
say("Each session has a queue pair and random packet sequence numbers of its own:");
for (const { name, put, get, echo } of clients) {
  showSession(`${name} put `, put);
  showSession(`${name} get `, get);
  showSession(`${name} echo`, echo);
}
say();
for (const { name, put, hash, echo } of clients) {
  say(`${name}: ${put.bytes} bytes put and got, SHA-256 equal on all three copies: ${hash}`);
  say(`${name}: the server echoed "${echo.answer}"`);
}
const status = await server.stop();
if (status !== 0) throw new Error(`the server ended with ${status}`);
say();
say("Done: the server was told to stop and ended in order.");
