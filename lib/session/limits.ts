/** What a server allows, in one place. Each is an option of `verbseal server`. */
export interface Limits {
  /** Sessions at once. */
  readonly clients: number;
  /** Sessions at once from one address (IPv6: from one /64). */
  readonly clientsPerAddress: number;
  /** Connection attempts a second from one address; as many again may come at once. */
  readonly connectionsPerSecond: number;
  /** Connections at once that have not finished the exchange. */
  readonly handshakes: number;
  /** Seconds from TCP connection to the end of the exchange. */
  readonly handshakeSeconds: number;
  /** Seconds without a frame after which a session ends. */
  readonly idleSeconds: number;
  /** Seconds that transfers have to finish once the server is told to stop. */
  readonly drainSeconds: number;
  /** Bytes of a message. */
  readonly messageBytes: number;
  /** Connections at once of the message service for plain TLS clients. */
  readonly messageClients: number;
  /** Bytes of the region that the memory service lends to a session. */
  readonly lentBytes: number;
}

export const defaultLimits: Limits = {
  clients: 1024,
  clientsPerAddress: 256,
  connectionsPerSecond: 100,
  handshakes: 256,
  handshakeSeconds: 10,
  idleSeconds: 30,
  drainSeconds: 10,
  messageBytes: 2 ** 20,
  messageClients: 5000,
  lentBytes: 2 ** 20,
};

/** Bytes of answers that wait to be sent, above which a server takes no further questions. */
export const SERVER_QUEUED_BYTES = 2 ** 21;

/**
 * Times that a session's queue pair is replaced within a minute. Faults are rarer; an attacker who
 * knows each new queue pair's numbers at once, and has them fail faster than that, costs more than a
 * session is worth: its client may come again.
 */
export const REQUEUES_PER_MINUTE = 10;
