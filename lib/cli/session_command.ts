import { type Command, Option } from "commander";
import type { Connect } from "../control/messages.ts";
import { Client } from "../services/client.ts";
import type { SealMode } from "../session/sealing.ts";
import type { Endpoint } from "../tls/connection.ts";
import { TlsSessionCache } from "../tls/openssl_session_cache.ts";
import type { Trust } from "../tls/trust.ts";
import { openOnFirstUse } from "./first_use.ts";
import { outputOf } from "./output.ts";
import { inSessions } from "./reconnect.ts";
import { cmPortOption, deviceOption } from "./rdma_options.ts";
import {
  rekeyOption,
  sealOption,
  type TransportChoice,
  transportOption,
  transportsOf,
} from "./transport_options.ts";
import { stopSignal } from "./stop_signal.ts";
import {
  addTrustOptions,
  knownHostsOf,
  loadClientTls,
  reloadClientTls,
  type TrustOptions,
} from "./trust_options.ts";
import { duration, endpoint } from "./values.ts";
import { version } from "./version.ts";

/** Port of the server unless told otherwise. */
const defaultPort = 4433;

interface ConnectionOptions extends TrustOptions {
  readonly transport: TransportChoice;
  readonly seal: SealMode;
  readonly rekeyBytes: number;
  readonly device: string;
  readonly connect: Connect;
  readonly cmPort: number;
  readonly timeout: number;
  /** Of commands whose work can be gone on with. */
  readonly reconnect?: number;
}

/** A command that needs a session: with the server as its first argument, and how to reach it. */
export function sessionCommand(client: Command, name: string): Command {
  const command = client.command(name)
    .argument("<host>", "server: HOST, HOST:PORT or [IPV6]:PORT", endpoint(defaultPort));
  return addTrustOptions(command)
    .addOption(transportOption("rdma"))
    .addOption(sealOption())
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

/**
 * Does something in a session with the server; a signal ends it in order. With `--reconnect` it is
 * gone on with when the session is lost.
 *
 * @param work is told how many sessions were lost before
 */
export async function withSession<T>(
  server: Endpoint,
  command: Command,
  work: (client: Client, losses: number) => Promise<T>,
): Promise<T> {
  const options = command.opts<ConnectionOptions>();
  let tls = await loadClientTls(options);
  using tlsSessions = new TlsSessionCache();
  using stopping = stopSignal();
  const stopped = new Promise<never>((_, reject) =>
    stopping.signal.addEventListener(
      "abort",
      () => reject(stopping.signal.reason),
      { once: true },
    )
  );
  stopped.catch(() => {}); // a signal after the work is of no interest
  const { signal } = stopping;
  const handshakeSeconds = options.timeout;
  const openWith = (trust: Trust, signal: AbortSignal, resume: string | undefined) =>
    Client.open({
      server,
      ...tls,
      trust,
      transports: transportsOf(options.transport),
      seal: options.seal,
      rekeyBytes: options.rekeyBytes,
      device: options.device,
      connect: options.connect,
      cmPort: options.cmPort,
      handshakeSeconds,
      agent: `verbseal/${version}`,
      signal,
      resume,
      tlsSessions,
    });
  const open = async (signal: AbortSignal, resume?: string) => {
    if (resume !== undefined) tls = await reloadClientTls(options, tls);
    const { trust, identity: _unshown, ...unproven } = tls;
    if (trust) return await openWith(trust, signal, resume);
    return await openOnFirstUse((trust) => openWith(trust, signal, resume), {
      dialling: { ...server, ...unproven, handshakeSeconds, signal },
      knownHosts: knownHostsOf(options),
      trustNew: options.trustNew ?? false,
      interactive: !outputOf(command).json && Deno.stdin.isTerminal() &&
        Deno.stderr.isTerminal(),
    });
  };
  const { reconnect: seconds = 0 } = options;
  return await inSessions(
    { open, signal, seconds },
    (client, losses) => Promise.race([work(client, losses), stopped]),
  );
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
    seal: agreed.choices.seal,
    local: { provider: port?.provider, device: port?.device, ...numbers(local) },
    remote: { provider: agreed.choices.provider, ...numbers(remote) },
    mtu: path.mtu,
  };
}
