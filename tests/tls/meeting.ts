/** A server and a client that meet over TLS, each with a library of its own, and what either makes of it. */
import { assertEquals } from "@std/assert";
import { VerbsealError } from "../../lib/errors.ts";
import { type Backend, dial, listen } from "../../lib/tls/backend.ts";
import type { IncomingConnection, TlsConnection } from "../../lib/tls/connection.ts";
import type { DialOptions, ListenOptions } from "../../lib/tls/options.ts";
import { eventually } from "../program.ts";

export const hostname = "127.0.0.1";
export const backends: readonly Backend[] = ["deno", "openssl"];

/** A side has spoken with the other, or has this to say. */
export type Outcome = "served" | VerbsealError;

/** A listener on a free port. */
export class MeetingPlace implements AsyncDisposable {
  readonly #listener;
  readonly #incoming;

  constructor(options: Omit<ListenOptions, "hostname" | "port">, backend: Backend) {
    this.#listener = listen({ hostname, port: 0, ...options }, { backend });
    this.#incoming = this.#listener[Symbol.asyncIterator]();
  }

  get port(): number {
    return this.#listener.address.port;
  }

  async accept(): Promise<IncomingConnection> {
    return (await this.#incoming.next()).value;
  }

  /**
   * Has a client connect.
   *
   * @returns when its TCP connection is accepted: what both sides will make of it
   */
  async meet(
    options: Pick<DialOptions, "trust"> & Partial<DialOptions>,
    backend: Backend,
  ): Promise<{ client: Promise<Outcome>; server: Promise<Outcome> }> {
    const { port } = this;
    const client = outcome(
      () => dial({ hostname, port, handshakeSeconds: 5, ...options }, { backend }),
      // With TLS 1.3 a client is through with its handshake before the server has seen its certificate.
      async (connection) => {
        assertEquals(await connection.read(new Uint8Array(1)), 1);
        await connection.write(Uint8Array.of(2));
      },
    );
    const incoming = await this.accept();
    const server = outcome(
      () => incoming.handshake(),
      async (connection) => {
        await connection.write(Uint8Array.of(1));
        assertEquals(await connection.read(new Uint8Array(1)), 1);
      },
    );
    return { client, server };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const end = this.#incoming.next();
    this.#listener.close();
    await end;
  }
}

async function outcome(
  connect: () => Promise<TlsConnection>,
  speak: (connection: TlsConnection) => Promise<void>,
): Promise<Outcome> {
  try {
    const connection = await connect();
    await speak(connection).finally(() => connection.close());
    return "served";
  } catch (error) {
    if (error instanceof VerbsealError) return error;
    throw error;
  }
}

/** Runs `test`, after which no more files and sockets may be open than before. */
export async function leavingNothing(test: () => Promise<void>): Promise<void> {
  const count = () => [...Deno.readDirSync("/proc/self/fd")].length;
  const before = count();
  await test();
  await eventually("as many descriptors as before", () => count() <= before, 2000);
}
