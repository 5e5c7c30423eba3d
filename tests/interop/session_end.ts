/** Verbseal's server and client as they run in the program, for a thread that is in some network namespace. */
import { selectPort } from "../../lib/rdma/provider.ts";
import { PsnSource } from "../../lib/security/psn.ts";
import { Client } from "../../lib/services/client.ts";
import { portChoice } from "../../lib/services/port_choice.ts";
import {
  type ServerServices,
  serviceNames,
  startWorkers,
} from "../../lib/services/server_services.ts";
import { Admission } from "../../lib/session/admission.ts";
import { connectByTls } from "../../lib/session/session_queue_pair.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { Server } from "../../lib/session/server.ts";
import type { Endpoint } from "../../lib/tls/connection.ts";
import { listen } from "../../lib/tls/backend.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { assertSameBytes, randomize } from "./bytes.ts";

/** Seconds for the exchange: guests are slow, and packets may be lost. */
const HANDSHAKE = 30;

/** Bytes that go through each service, and where in the lent memory: no multiples of any path MTU. */
const MESSAGE_BYTES = 100_001;
const MEMORY_BYTES = 70_003;
const MEMORY_OFFSET = 4097;

export interface ServerOptions {
  /** To listen on. */
  readonly address: string;
  /** As of `--device`. */
  readonly device: string;
  readonly identity: Identity;
  /** Directory of the file service. */
  readonly root: string;
}

/** A session, and the client's side of its services. */
export type ServiceClients = Pick<Client, "session" | "messages" | "memory" | "files">;

/** Where a file is, goes and comes back to. */
export interface Files {
  /** Path of the file that is put. */
  readonly file: string;
  /** Its name at the server. */
  readonly name: string;
  /** Path of what is got back. */
  readonly copy: string;
}

export interface ClientOptions extends Files {
  readonly server: Endpoint;
  /** Certificate to trust, PEM. */
  readonly authority: string;
  /** As of `--device`. */
  readonly device: string;
}

/** What a session came to that used all services. */
export interface SessionOutcome {
  /** Bytes. */
  readonly pathMtu: number;
  readonly localGid: string;
  readonly remoteGid: string;
  /** SHA-256 of the file as it was put, and as it was got. */
  readonly put: string;
  readonly got: string;
}

/** A server with one data worker. Disposing it ends it. */
export class ServerEnd implements AsyncDisposable {
  readonly endpoint: Endpoint;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;

  constructor({ address, device, identity, root }: ServerOptions) {
    const limits = { ...defaultLimits, handshakeSeconds: HANDSHAKE };
    const services: ServerServices = {
      root,
      lentBytes: limits.lentBytes,
      log: { level: "error", format: "text" },
    };
    const listener = listen({ hostname: address, port: 0, identity });
    this.endpoint = { hostname: address, port: listener.address.port };
    const workers = startWorkers(services, 1);
    const server = new Server(listener, {
      limits,
      admission: new Admission(limits),
      psns: new PsnSource(),
      services: serviceNames(services),
      transports: ["rdma"],
      seal: "required",
      connectQueuePair: { tls: connectByTls },
      // Without the memory of portChooser: the interface's MTU changes between sessions.
      selectPort: (localAddress) => portChoice(selectPort(device, localAddress)),
      openDataPath: (path) => workers.openDataPath(path),
    });
    this.#running = server.run(this.#stopping.signal)
      .finally(() => workers[Symbol.asyncDispose]());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }
}

/**
 * Opens a session and uses all services.
 *
 * @throws Error when bytes come back other than they went
 */
export async function meetServer(options: ClientOptions): Promise<SessionOutcome> {
  await using client = await Client.open({
    server: options.server,
    trust: { authorities: [options.authority] },
    device: options.device,
    connect: "tls",
    cmPort: 4791,
    handshakeSeconds: HANDSHAKE,
    agent: "interop",
  });
  const { session } = client;
  return await session.during(useServices(client, options));
}

/**
 * Echoes a message, writes lent memory and reads it, puts a file and gets it back.
 *
 * @throws Error when bytes come back other than they went
 */
export async function useServices(
  { session, messages, memory, files }: ServiceClients,
  { file, name, copy }: Files,
): Promise<SessionOutcome> {
  const message = random(MESSAGE_BYTES);
  assertSameBytes(await messages.ask("ECHO", message), message, "the message echoed");
  const written = random(MEMORY_BYTES);
  await memory.write(session, MEMORY_OFFSET, written);
  const read = await memory.read(session, MEMORY_OFFSET, MEMORY_BYTES);
  assertSameBytes(read, written, "what was written to the lent memory");
  const { sha256: put } = await files.put(session, file, name);
  const { sha256: got } = await files.get(session, name, copy);
  if (session.agreed.transport !== "rdma") throw new Error("RDMA was asked for");
  const { local, remote, path } = session.agreed;
  return { pathMtu: path.mtu, localGid: local.gid, remoteGid: remote.gid, put, got };
}

function random(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  randomize(bytes);
  return bytes;
}
