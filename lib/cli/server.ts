import type { Command } from "commander";
import { Option } from "commander";
import type { Connect } from "../control/messages.ts";
import { chooseDevice, type DeviceChoice } from "../rdma/provider.ts";
import { PsnSource } from "../security/psn.ts";
import { MessageServer } from "../services/message_server.ts";
import {
  checkRoots,
  type ServerServices,
  serviceNames,
  startWorkers,
} from "../services/server_services.ts";
import { portChooser } from "../services/port_choice.ts";
import { Admission } from "../session/admission.ts";
import { CounterWatch } from "../session/counter_watch.ts";
import type { DataPathOptions } from "../session/data_path.ts";
import { Joins } from "../session/joins.ts";
import { checkManageable, ManagedServer } from "../session/managed_connection.ts";
import type { SealMode } from "../session/sealing.ts";
import { Server } from "../session/server.ts";
import { connectByTls } from "../session/session_queue_pair.ts";
import { sumOfUsage } from "../session/usage.ts";
import { logger } from "../telemetry/log.ts";
import { choiceFacts } from "./device_choice.ts";
import { addLimitOptions, limitsOf } from "./limit_options.ts";
import { openFilesFor, raiseOpenFileLimit } from "./open_files.ts";
import { outputOf } from "./output.ts";
import { policyHelp } from "./policy_help.ts";
import { examples, logSettingsOf } from "./program.ts";
import { cmPortOption, deviceOption } from "./rdma_options.ts";
import { addServerMetricsOption } from "./server_metrics.ts";
import { addServerAuditOptions, openAudit, type ServerAuditOptions } from "./server_audit.ts";
import { type ServerPortOptions, ServerPorts } from "./server_ports.ts";
import { giveWayToWorkers } from "./server_priority.ts";
import { addServerTlsOptions, ServerTls, type ServerTlsOptions } from "./server_tls.ts";
import { dropPrivileges, openAs, userOption } from "./server_user.ts";
import { stopSignal } from "./stop_signal.ts";
import {
  sealOption,
  type TransportChoice,
  transportOption,
  transportsOf,
  warnOfUserSpace,
} from "./transport_options.ts";
import { version } from "./version.ts";
import { host, listenAddress, wholeNumber } from "./values.ts";

const log = logger("server");

interface ServerOptions extends ServerTlsOptions, ServerAuditOptions, ServerPortOptions {
  readonly root?: string;
  readonly transport: TransportChoice;
  readonly seal: SealMode;
  readonly device: string;
  readonly connect: Connect;
  readonly cmPort: number;
  readonly workers: number;
}

/** Adds `verbseal server`. */
export function addServerCommand(program: Command): void {
  const command = program.command("server")
    .summary("serve messages, memory and files")
    .description(
      "Serve messages, memory and, with --root, files to clients that meet it over TLS. Each " +
        "client gets a queue pair of its own with random packet sequence numbers. SIGTERM and " +
        "SIGINT let transfers finish and end it; a second one ends it at once.",
    )
    .option("--address <address>", "address to listen on", host, "0.0.0.0")
    .option("--port <port>", "TCP port to listen on; 0 lets the system choose", port, 4433);
  addServerMetricsOption(addServerAuditOptions(addServerTlsOptions(command)))
    .option("--root <directory>", "serve files below this directory; without it, none")
    .addOption(userOption())
    .addOption(transportOption("rdma"))
    .addOption(sealOption())
    .addOption(deviceOption())
    .addOption(
      new Option("--connect <way>", "cm: also bring queue pairs up by the connection manager")
        .choices(["tls", "cm"]).default("tls"),
    )
    .addOption(cmPortOption())
    .option(
      "--workers <count>",
      "threads that move data (default: one less than the processors, at least one)",
      wholeNumber(1, 256),
      Math.max(1, navigator.hardwareConcurrency - 1),
    )
    .option(
      "--messages-listen <address>",
      "also serve messages to TLS clients without RDMA there: :PORT on the address above",
      listenAddress,
    );
  addLimitOptions(command)
    .addHelpText(
      "after",
      policyHelp + examples(
        ["verbseal certs init && verbseal server --root /srv/files", "with new certificates"],
        [
          "verbseal server --cert s.pem --key s.key --root /srv/files --device mlx5_0:1",
          "on port 1 of one device",
        ],
        [
          "verbseal server --messages-listen :4242",
          "messages on a second port too, for clients that speak TLS alone",
        ],
        [
          "verbseal server --root /srv/files --transport any",
          "also over TLS that the kernel seals, which needs no RDMA",
        ],
        ["verbseal server --root /srv/files --policy policy.yaml", "only what the policy allows"],
        [
          "verbseal server --audit audit.jsonl --audit-head /mnt/other/audit.head",
          "with an audit log, for verbseal audit verify",
        ],
        ["verbseal server --metrics-listen :9464", "with metrics for a Prometheus on this host"],
        [
          "verbseal server --root /srv/files --port 443 --user verbseal",
          "started as root for its port, and nobody special from then on",
        ],
        ["verbseal server --connect cm --max-clients 64", "also by the connection manager"],
      ),
    )
    .action(serve);
}

function port(text: string): number {
  return wholeNumber(0, 65535)(text);
}

/** What `--device` comes to, as this process's user may open devices now. */
function choiceOf({ device, connect }: ServerOptions, localAddress: string): DeviceChoice {
  const chosen = chooseDevice(device, localAddress);
  if (connect === "cm") checkManageable(chosen.provider, chosen.reason);
  return chosen;
}

async function serve(options: ServerOptions, command: Command): Promise<void> {
  const limits = limitsOf(command.opts());
  const services: ServerServices = {
    root: options.root,
    lentBytes: limits.lentBytes,
    unfinished: limits,
    log: logSettingsOf(command),
  };
  raiseOpenFileLimit(openFilesFor(limits, options.messagesListen !== undefined));
  using tls = await ServerTls.load(options, (policy) => checkRoots(services, policy));
  await using auditing = new AsyncDisposableStack();
  using stopping = stopSignal();
  const transports = transportsOf(options.transport);
  warnOfUserSpace(transports);
  using ports = await ServerPorts.open(options, transports, tls.credentials.listener);
  const { listener, messageListener, metricsPort } = ports;
  const choose = () => choiceOf(options, listener.address.hostname);
  let chosen = choose();
  using managed = options.connect === "cm" ? new ManagedServer(options.cmPort) : undefined;
  const { user } = options;
  dropPrivileges(user);
  if (user) {
    await openAs(user, () => tls.tryReload());
    chosen = choose();
  }
  const auditLog = await openAs(user, () => openAudit(options, auditing));
  const admission = new Admission(limits);
  const metrics = metricsPort?.metrics(admission, auditLog);
  const audit = metrics ?? auditLog;
  await using workers = startWorkers(services, options.workers);
  giveWayToWorkers();
  await using _watch = new CounterWatch(() => workers.errorCounters(), audit);
  const shared = {
    limits,
    admission,
    audit,
    ...(tls.policy ? { policy: () => tls.policy! } : {}),
    ...(tls.checkRevocation ? { checkRevocation: tls.checkRevocation } : {}),
  };
  const server = new Server(listener, {
    ...shared,
    psns: new PsnSource(),
    services: serviceNames(services),
    transports,
    seal: options.seal,
    ...(transports.includes("ktls")
      ? {
        streams: {
          joins: new Joins(),
          openDataPath: (path: DataPathOptions) => workers.openStreamPath(path),
        },
      }
      : {}),
    connectQueuePair: {
      tls: connectByTls,
      ...(managed ? { cm: managed.connectQueuePair } : {}),
    },
    selectPort: portChooser(options.device),
    openDataPath: (path) => workers.openDataPath(path),
  });
  const messageServer = messageListener && new MessageServer(messageListener, shared);
  await using _metrics = metrics && metricsPort?.serve(metrics, {
    integrityFailures: () => server.integrityFailures,
    usage: async () => sumOfUsage(await workers.usage(), messageServer?.usage ?? {}),
    portErrors: () => workers.errorCounters(),
    tlsHandshakes: () => ports.tlsListeners.map(({ handshakes }) => handshakes),
  });
  const facts = {
    ...ports.addressTexts,
    tls: ports.backend.backend,
    tlsReason: ports.backend.reason,
    transports,
    ...choiceFacts(chosen),
    services: serviceNames(services),
    workers: options.workers,
  };
  await audit?.record({ event: "started", version, ...facts });
  announce(command, facts, ports);
  tls.keep(ports.tlsListeners, audit);
  await Promise.all([server.run(stopping.signal), messageServer?.run(stopping.signal)]);
  // Whether or not it can be written: the server ends.
  await audit?.record({ event: "stopped" }).catch(() => {});
}

/** Clients may come from now on. */
function announce(
  command: Command,
  facts: Readonly<Record<string, unknown>>,
  { addresses }: ServerPorts,
): void {
  log.info("listening", facts);
  const output = outputOf(command);
  if (output.json) output.result({ listening: { ...facts, ...addresses } }, "");
}
