/**
 * What a server allows, in one place; each is an option of `verbseal server`. The defaults let one
 * host serve a cluster of some hundred hosts, and let no client have so much that others notice.
 */
export interface Limits {
  /**
   * Sessions at once. 1024: each has a queue pair, of which adapters hold thousands, and some
   * hundred KiB of buffers.
   */
  readonly clients: number;
  /**
   * Sessions at once from one address (IPv6: from one /64). 256: a host with a session for each of
   * its cores has them, and four hostile ones are needed to take all there are.
   */
  readonly clientsPerAddress: number;
  /**
   * Sessions at once of one certificate's subject and names, unless the policy says how many.
   * 256, as for an address: one stolen key, used from anywhere, cannot take all there are.
   */
  readonly clientsPerIdentity: number;
  /**
   * Connection attempts a second from one address; as many again may come at once. 100: a TLS
   * handshake costs about a millisecond, so that one address can take a tenth of a core.
   */
  readonly connectionsPerSecond: number;
  /**
   * Sessions that one address begins a second; a quarter of {@linkcode handshakes} may come at once
   * before, and those beyond wait for their turn, at most half of {@linkcode handshakeSeconds}. 20:
   * to bring one up and down takes the control thread and a worker some seven milliseconds, so that
   * one address can take a seventh of a core. As many queue pairs of all sessions of a client are
   * replaced a second, which costs as much. Those beyond wait, no longer than that either, and none is
   * refused: what {@linkcode requeuesPerMinute} allows to all of them may be more.
   */
  readonly sessionsPerSecond: number;
  /**
   * Connections at once that have not finished the exchange, a quarter of them from one address.
   * 256: each holds a socket and the state of TLS, about 100 KiB.
   */
  readonly handshakes: number;
  /** Seconds from TCP connection to the end of the exchange. 10: an honest one takes below one. */
  readonly handshakeSeconds: number;
  /** Seconds without a frame after which a session ends. 30: a peer is asked every 7.5 for a sign of life. */
  readonly idleSeconds: number;
  /** Seconds that transfers have to finish once the server is told to stop. 10, as service managers wait for more. */
  readonly drainSeconds: number;
  /**
   * Bytes of a message. 1 MiB: messages are put together in memory that is not registered, one at a
   * time in a session.
   */
  readonly messageBytes: number;
  /** Connections at once of the message service for plain TLS clients. 5000: each costs memory for TLS, and nothing of a device. */
  readonly messageClients: number;
  /**
   * The same from one address (IPv6: from one /64), and of one certificate's subject and names. 1250:
   * four hostile hosts are needed to take all places there are.
   */
  readonly messageClientsPerAddress: number;
  /**
   * Bytes that requests of those clients hold until they have come in full and are answered, of all
   * together, a quarter of them from one address. 256 MiB: each request may be as long as a message,
   * and all of them at once would take 5 GiB. Shorter ones than a KiB count for nothing; the answer to
   * REVERSE takes as much again while it is read.
   */
  readonly messageMemory: number;
  /** Bytes of the region that the memory service lends to a session. 1 MiB, a part of {@linkcode registeredBytes}. */
  readonly lentBytes: number;
  /**
   * Bytes that a session has registered at most, its messages' buffers among them, and what is set
   * aside for it when it is admitted. 4 MiB: 384 KiB for messages, 2.5 MiB for a put or get, 1 MiB
   * that is lent, and some room. Devices pin it: it can neither be swapped nor used by others.
   */
  readonly registeredBytes: number;
  /**
   * The same of all sessions together, over all workers. 4 GiB: enough for all clients. It has to
   * fit in memory, and with a device in the locked-memory limit (ulimit -l).
   */
  readonly registeredBytesInAll: number;
  /** Bytes of answers that wait to be sent in a session, above which it may ask nothing further. 2 MiB: two of the largest messages. */
  readonly queuedBytes: number;
  /**
   * Fragments of messages (of 8 KiB, or less for a message's last) a second of a session, frames on a
   * data connection, and those of all plain TLS clients of one address or identity; as many again may
   * come at once. 50 000: three times as many small questions as a client of ours has answered over
   * the embedded provider, and 400 MB/s in full fragments.
   */
  readonly messagesPerSecond: number;
  /**
   * Grants a second of a session; as many again may come at once. 1000: each registers memory or
   * binds a window, which takes a device some ten microseconds, and all sessions of a device share
   * the kernel's locks.
   */
  readonly grantsPerSecond: number;
  /** REQUESTs of a session that are worked on at once. 8: a client of ours has a few; each may hold a file open. */
  readonly requests: number;
  /**
   * Control frames a second of a session, of 1 KiB or, as nearly all are, less: a larger one counts as
   * several. As many again may come at once, and of all sessions of a client four times as many: more
   * sessions bring no more. 4000: two for each grant of the memory service, and as many more. The
   * control thread, which all sessions share, takes some ten microseconds for each, so that one client
   * can take a sixth of it.
   */
  readonly framesPerSecond: number;
  /**
   * Times that a session's queue pair is replaced within a minute. 10: faults are rarer. An attacker
   * who knows each new queue pair's numbers at once, and has them fail faster than that, costs more
   * than a session is worth: its client may come again.
   */
  readonly requeuesPerMinute: number;
  /**
   * Seconds that a file waits for the rest of itself when what carried it has ended. 60: a client
   * that has lost its connection tries as long to come back, unless it is told otherwise.
   */
  readonly unfinishedSeconds: number;
  /**
   * Files that wait so at once in each data worker; beyond that the one that waits longest goes.
   * 64: each holds two descriptors and the disk space of what was written.
   */
  readonly unfinishedFiles: number;
  /** And those of one identity, or of the address of clients without one. 8: who breaks transfers off on purpose drives out no others' files. */
  readonly unfinishedFilesPerIdentity: number;
}

/** What holds for files that wait for the rest of themselves. */
export type UnfinishedLimits = Pick<
  Limits,
  "unfinishedSeconds" | "unfinishedFiles" | "unfinishedFilesPerIdentity"
>;

/** What the data path of a session keeps to. Plain data: it crosses threads. */
export type SessionLimits = Pick<
  Limits,
  "queuedBytes" | "messagesPerSecond" | "grantsPerSecond"
>;

export const defaultLimits: Limits = {
  clients: 1024,
  clientsPerAddress: 256,
  clientsPerIdentity: 256,
  connectionsPerSecond: 100,
  sessionsPerSecond: 20,
  handshakes: 256,
  handshakeSeconds: 10,
  idleSeconds: 30,
  drainSeconds: 10,
  messageBytes: 2 ** 20,
  messageClients: 5000,
  messageClientsPerAddress: 1250,
  messageMemory: 2 ** 28,
  lentBytes: 2 ** 20,
  registeredBytes: 2 ** 22,
  registeredBytesInAll: 2 ** 32,
  queuedBytes: 2 ** 21,
  messagesPerSecond: 50_000,
  grantsPerSecond: 1000,
  requests: 8,
  framesPerSecond: 4000,
  requeuesPerMinute: 10,
  unfinishedSeconds: 60,
  unfinishedFiles: 64,
  unfinishedFilesPerIdentity: 8,
};
