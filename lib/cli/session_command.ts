import { type Command, Option } from "commander";
import type { Connect } from "../control/messages.ts";
import { Client } from "../services/client.ts";
import type { Endpoint } from "../tls/connection.ts";
import { loadTrust } from "../tls/trust.ts";
import { cmPortOption, deviceOption } from "./rdma_options.ts";
import {
  rekeyOption,
  type TransportChoice,
  transportOption,
  transportsOf,
} from "./transport_options.ts";
import { stopSignal } from "./stop_signal.ts";
import { duration, endpoint, host } from "./values.ts";
import { version } from "./version.ts";

/** Port of the server unless told otherwise. */
const defaultPort = 4433;

interface ConnectionOptions {
  readonly ca?: string;
  readonly serverName?: string;
  readonly transport: TransportChoice;
  readonly rekeyBytes: number;
  readonly device: string;
  readonly connect: Connect;
  readonly cmPort: number;
  readonly timeout: number;
}

/** A command that needs a session: with the server as its first argument, and how to reach it. */
export function sessionCommand(client: Command, name: string): Command {
  return client.command(name)
    .argument("<host>", "server: HOST, HOST:PORT or [IPV6]:PORT", endpoint(defaultPort))
    .option("--ca <file>", "authorities to trust, PEM (default: those that the system trusts)")
    .option("--server-name <name>", "name in the server's certificate, if not the host's", host)
    .addOption(transportOption("rdma"))
    .addOption(rekeyOption())
    .addOption(deviceOption())
    .addOption(
      new Option(
        "--connect <way>",
        "how the queue pair is brought up: by what was agreed in " +
          "TLS, or by the connection manager",
      ).choices(["tls", "cm"]).default("tls"),
    )
    .addOption(cmPortOption())
    .option(
      "--timeout <duration>",
      "time for the connection, and again for the exchange",
      duration(0.1, 3600),
      10,
    );
}

/** Does something in a session with the server; a signal ends it in order. */
export async function withSession<T>(
  server: Endpoint,
  command: Command,
  work: (client: Client) => Promise<T>,
): Promise<T> {
  const options = command.opts<ConnectionOptions>();
  const trust = await loadTrust(options.ca);
  using stopping = stopSignal();
  const stopped = new Promise<never>((_, reject) =>
    stopping.signal.addEventListener(
      "abort",
      () => reject(stopping.signal.reason),
      { once: true },
    )
  );
  stopped.catch(() => {}); // a signal after the work is of no interest
  await using client = await Client.open({
    server,
    trust,
    transports: transportsOf(options.transport),
    rekeyBytes: options.rekeyBytes,
    device: options.device,
    connect: options.connect,
    cmPort: options.cmPort,
    handshakeSeconds: options.timeout,
    agent: `verbseal/${version}`,
    signal: stopping.signal,
    ...(options.serverName === undefined ? {} : { serverName: options.serverName }),
  });
  return await Promise.race([client.session.during(work(client)), stopped]);
}

/** What was agreed, for `--json`. */
export function sessionFacts({ session: { agreed, port } }: Client) {
  const { session: id, transport } = agreed;
  if (transport === "ktls") return { id, transport, kernel: agreed.kernel };
  const { local, remote, path } = agreed;
  const numbers = ({ qpn, psn, gid }: typeof local) => ({ qpn, psn, gid });
  return {
    id,
    transport,
    local: { provider: port?.provider, device: port?.device, ...numbers(local) },
    remote: { provider: agreed.choices.provider, ...numbers(remote) },
    mtu: path.mtu,
  };
}
