import { decodeJoin, type Join, JOIN_BYTES, type JoinTokens } from "../control/join.ts";
import { ProtocolError, TlsError } from "../errors.ts";
import type { DataConnection } from "../tls/data_connection.ts";
import type { StreamLink } from "./stream_link.ts";
import { readExactly } from "./read_exactly.ts";

/** The server's side of data connections: brings those that come in to the sessions that wait for them. */
export class Joins {
  readonly #expected = new Map<string, ExpectedConnections>();

  /** Connections of this session are let in until the link is disposed. */
  expect(session: string, tokens: JoinTokens): StreamLink {
    const expected = new ExpectedConnections(tokens, () => this.#expected.delete(session));
    this.#expected.set(session, expected);
    return expected;
  }

  /**
   * Reads whose a connection is, and gives it to that session, which owns it from then on.
   *
   * @returns the session
   * @throws VerbsealError when it is nobody's; it is the caller's to close then
   */
  async take(connection: DataConnection): Promise<string> {
    const join = decodeJoin(await readExactly(connection, JOIN_BYTES));
    const expected = this.#expected.get(join.session);
    if (!expected) {
      throw new ProtocolError("join_session", "no session waits for this data connection");
    }
    await expected.take(join, connection);
    return join.session;
  }
}

class ExpectedConnections implements StreamLink {
  #epoch = 0;
  #arrival = arrival();
  /** There is one of this epoch; it waits to be taken up. */
  #taken = false;
  #disposed = false;

  constructor(private readonly tokens: JoinTokens, private readonly forget: () => void) {}

  async next(): Promise<DataConnection> {
    const connection = await this.#arrival.promise;
    this.#arrival = arrival();
    this.#epoch += 1;
    this.#taken = false;
    return connection;
  }

  async take({ epoch, token }: Join, connection: DataConnection): Promise<void> {
    if (epoch !== this.#epoch || this.#taken) {
      throw new ProtocolError("join_epoch", `no data connection of epoch ${epoch} is awaited`);
    }
    this.tokens.check(epoch, token);
    this.#taken = true;
    try {
      await connection.write(this.tokens.own(epoch));
    } catch (error) {
      this.#taken = false;
      throw error;
    }
    if (this.#disposed) throw sessionEnded();
    this.#arrival.resolve(connection);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.forget();
    this.#arrival.promise.then((unused) => unused.abort(), () => {});
    this.#arrival.reject(sessionEnded());
    this.tokens[Symbol.dispose]();
  }
}

function sessionEnded(): TlsError {
  return new TlsError("session_ended", "the session has ended");
}

function arrival(): PromiseWithResolvers<DataConnection> {
  const arrival = Promise.withResolvers<DataConnection>();
  arrival.promise.catch(() => {}); // often nobody waits when a session ends
  return arrival;
}
