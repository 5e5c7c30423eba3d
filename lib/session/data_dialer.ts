import { encodeJoin, type JoinTokens, TOKEN_BYTES } from "../control/join.ts";
import { TlsError } from "../errors.ts";
import type { DataConnection } from "../tls/data_connection.ts";
import type { StreamLink } from "./stream_link.ts";
import { readExactly } from "./read_exactly.ts";

/** Connects to the server for data; the signal gives up. */
export type DialData = (signal: AbortSignal) => Promise<DataConnection>;

/** The client's side of data connections: makes them. */
export class DataDialer implements StreamLink {
  readonly #ending = new AbortController();
  #epoch = 0;

  constructor(
    private readonly session: string,
    private readonly tokens: JoinTokens,
    private readonly dial: DialData,
  ) {}

  async next(): Promise<DataConnection> {
    const { signal } = this.#ending;
    const epoch = this.#epoch++;
    const connection = await this.dial(signal);
    const giveUp = () => connection.abort();
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      signal.throwIfAborted();
      const token = this.tokens.own(epoch);
      await connection.write(encodeJoin({ session: this.session, epoch, token }));
      this.tokens.check(epoch, await readExactly(connection, TOKEN_BYTES));
      return connection;
    } catch (error) {
      connection.abort();
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  [Symbol.dispose](): void {
    this.#ending.abort(new TlsError("session_ended", "the session has ended"));
    this.tokens[Symbol.dispose]();
  }
}
