/**
 * `deno task demo`: a server and two clients at once, as processes of their own, on the embedded
 * provider. Each session shows its own numbers; files come back with equal hashes, messages echoed.
 */
import { join } from "node:path";
import { startServer, verbseal } from "./cli/run.ts";
import { randomFile, sha256 } from "./program.ts";

const address = "127.0.0.1";

interface End {
  readonly provider: string;
  readonly qpn: number;
  readonly psn: number;
  readonly gid: string;
}

/** What the program prints of a session with --json. */
interface Result extends Record<string, unknown> {
  readonly session: { readonly id: string; readonly local: End; readonly remote: End };
}

/** Fails loudly: a demonstration that shows nothing must not look as if it did. */
async function resultOf(...args: string[]): Promise<Result> {
  const { code, stdout, stderr } = await verbseal(...args, "--json");
  if (code !== 0) throw new Error(`${args.join(" ")} failed: ${stderr}`);
  return JSON.parse(stdout);
}

async function client(directory: string, port: number, name: string, bytes: number) {
  const ask = (command: string, ...args: string[]) => {
    const options = ["--ca", join(directory, "certs/ca.pem"), "--device", "roce"];
    return resultOf("client", command, `${address}:${port}`, ...args, ...options);
  };
  const file = join(directory, name);
  await randomFile(file, bytes);
  const put = await ask("put", file);
  const get = await ask("get", name, `${file}.back`);
  const echo = await ask("echo", `hello from ${name}`);
  const copies = [file, join(directory, "served", name), `${file}.back`];
  const hashes = await Promise.all(copies.map(sha256));
  if (new Set(hashes).size !== 1) throw new Error(`the copies of ${name} differ: ${hashes}`);
  return { name, put, get, echo, hash: hashes[0] };
}

function hex(number: number): string {
  return `0x${number.toString(16).padStart(6, "0")}`;
}

function show(name: string, { session: { id, local, remote } }: Result): void {
  const numbers = ({ qpn, psn, gid }: End) => `QPN ${hex(qpn)}  PSN ${hex(psn)}  GID ${gid}`;
  console.log(`  ${name}  session ${id}`);
  console.log(`    client  ${numbers(local)}`);
  console.log(`    server  ${numbers(remote)}`);
}

async function showClients(directory: string, port: number): Promise<void> {
  console.log(`Server on ${address}:${port}, TLS with a certificate of its own authority,`);
  console.log("RDMA by the embedded provider: RoCEv2 over UDP, without an RDMA device");
  console.log("Two clients at once: each puts a file, gets it back, and sends a message\n");
  const clients = await Promise.all([
    client(directory, port, "client-1", 4_000_000),
    client(directory, port, "client-2", 2_500_000),
  ]);
  console.log("Each session has a queue pair and random packet sequence numbers of its own:");
  for (const { name, put, get, echo } of clients) {
    show(`${name} put `, put);
    show(`${name} get `, get);
    show(`${name} echo`, echo);
  }
  console.log();
  for (const { name, put, hash, echo } of clients) {
    console.log(`${name}: ${put.bytes} bytes put and got, SHA-256 of all copies: ${hash}`);
    console.log(`${name}: the server echoed "${echo.answer}"`);
  }
}

async function demo(directory: string): Promise<void> {
  await resultOf("certs", "init", "--directory", join(directory, "certs"));
  await Deno.mkdir(join(directory, "served"));
  const options = ["--address", address, "--device", "roce", "--root", "served"];
  await using server = await startServer(directory, options);
  await showClients(directory, server.port);
  const { status, log } = await server.stop();
  if (status !== 0) throw new Error(`the server ended with ${status}: ${log}`);
  console.log("\nDone: the server was told to stop and ended in order.");
}

if (import.meta.main) {
  const directory = await Deno.makeTempDir({ prefix: "verbseal-demo-" });
  try {
    await demo(directory);
  } catch (error) {
    console.error(`demo: ${error instanceof Error ? error.message : error}`);
    Deno.exitCode = 1;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}
