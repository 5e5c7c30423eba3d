/**
 * The embedded provider meets programs not ours: ibv_rc_pingpong and perftest, which run on
 * rdma_rxe, each as client and as server.
 */
import { deadline } from "@std/async/deadline";
import { gidOfAddress } from "../../lib/rdma/address.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import { callPerftest, type Perftest, servePerftest } from "../interop/perftest.ts";
import { callPingpong, type Pingpong, servePingpong } from "../interop/pingpong.ts";
import { LocalPort } from "../interop/endpoint.ts";
import { PlainExchange } from "../interop/plain_exchange.ts";
import { Program } from "../interop/program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { NetworkNamespace } from "./namespace.ts";

/** For one run; the guest is slow. */
const MILLISECONDS = 30_000;

type IpVersion = "IPv4" | "IPv6";
type Role = "client" | "server";

const programAddresses = { IPv4: "10.9.0.1", IPv6: "fd09::1" } as const;
const ourAddresses = {
  IPv4: NetworkNamespace.addresses.ipv4,
  IPv6: NetworkNamespace.addresses.ipv6,
} as const;

/** The other end of a program: our side of one run. */
type Play = (port: LocalPort, exchange: PlainExchange, program: Program) => Promise<void>;

/** The program's options for rxe0 with the GID of that version of IP. */
function portOptions(gidOption: string, version: IpVersion): string[] {
  using port = new LocalPort(openDevice("rxe0"), gidOfAddress(programAddresses[version]));
  return ["-d", "rxe0", gidOption, String(port.gid.index)];
}

/** Where we are; the programs are outside. */
let namespace: NetworkNamespace;

Deno.test.beforeAll(async () => {
  namespace = await NetworkNamespace.create();
});

Deno.test.afterAll(async () => {
  await namespace[Symbol.asyncDispose]();
});

/** The embedded provider in the namespace. */
function openPort(version: IpVersion): LocalPort {
  const address = ourAddresses[version];
  return namespace.within(() =>
    new LocalPort(openDevice(`roce:${address}`), gidOfAddress(address))
  );
}

/** Runs the program as client or server, on rxe0, and us as the other, in the namespace. */
async function meet(
  program: { name: string; options: string[]; role: Role },
  version: IpVersion,
  play: Play,
): Promise<void> {
  using port = openPort(version);
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const tcpPort = listener.addr.port;
  const isClient = program.role === "client";
  if (!isClient) listener.close();
  const args = [...program.options, "-p", String(tcpPort), ...(isClient ? ["127.0.0.1"] : [])];
  await using running = new Program(program.name, args);
  const playing = async () => {
    using exchange = isClient
      ? new PlainExchange(await listener.accept())
      : await PlainExchange.dial(tcpPort);
    await play(port, exchange, running);
  };
  await deadline(Promise.all([playing(), running.succeeded()]), MILLISECONDS);
}

function pingpongTest(role: Role, version: IpVersion, pingpong: Pingpong): void {
  const { size, iterations, pathMtu } = pingpong;
  verbsTest(
    `interop: ibv_rc_pingpong as ${role}, ${iterations} × ${size} bytes, MTU ${pathMtu}, ${version}`,
    async () => {
      const settings = ["-s", size, "-n", iterations, "-m", pathMtu].map(String);
      const options = [...portOptions("-g", version), ...settings];
      const play = role === "client" ? servePingpong : callPingpong;
      await meet(
        { name: "ibv_rc_pingpong", options, role },
        version,
        (port, exchange) => play(port, exchange, pingpong),
      );
    },
  );
}

pingpongTest("client", "IPv4", { size: 4096, iterations: 100, pathMtu: 1024 });
pingpongTest("client", "IPv6", { size: 65536, iterations: 20, pathMtu: 4096 });
pingpongTest("server", "IPv4", { size: 1001, iterations: 100, pathMtu: 256 });
pingpongTest("server", "IPv6", { size: 100_003, iterations: 20, pathMtu: 2048 });

function perftestTest(
  operation: Perftest["operation"],
  role: Role,
  version: IpVersion,
  { size, iterations }: { size: number; iterations: number },
): void {
  const name = `ib_${operation.toLowerCase()}_bw`;
  verbsTest(
    `interop: ${name} as ${role}, ${iterations} × ${size} bytes, ${version}`,
    async () => {
      const settings = ["-s", size, "-n", iterations].map(String);
      // -F: a guest's processors have no fixed frequency.
      const options = [...portOptions("-x", version), ...settings, "-F"];
      const play = role === "client" ? servePerftest : callPerftest;
      await meet(
        { name, options, role },
        version,
        (port, exchange, { readMemory }) =>
          play(port, exchange, { operation, size, iterations, readMemory }),
      );
    },
  );
}

for (const operation of ["SEND", "WRITE", "READ"] as const) {
  for (const role of ["client", "server"] as const) {
    perftestTest(operation, role, "IPv4", { size: 65_537, iterations: 50 });
    perftestTest(operation, role, "IPv6", { size: 1001, iterations: 200 });
  }
}
