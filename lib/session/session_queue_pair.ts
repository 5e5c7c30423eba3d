import type { Step } from "../control/exchange.ts";
import type { QueuePairNumbers, RdmaChoices, Welcome } from "../control/messages.ts";
import { RdmaError } from "../errors.ts";
import type { PsnSource } from "../security/psn.ts";
import { wipeKeys } from "../security/seal.ts";
import type { ConnectOrder, QueuePairPath } from "./data_path.ts";
import type { RdmaEstablished } from "./session_path.ts";
import { type SessionUsage, sumOfUsage } from "./usage.ts";

/**
 * A way to bring a queue pair up: gives what has to be disposed after it.
 *
 * @param cmToken shows the peer's connection manager who asks
 */
export type ConnectQueuePair = (
  dataPath: QueuePairPath,
  order: ConnectOrder,
  cmToken: Uint8Array,
) => Promise<Disposable>;

/** `--connect tls`: all that is needed was agreed in TLS. */
export const connectByTls: ConnectQueuePair = async (dataPath, order) => {
  await dataPath.connect(order);
  return { [Symbol.dispose]() {} };
};

/** What sessions over queue pairs need. */
export interface QueuePairTransport {
  readonly psns: PsnSource;
  /** Makes the data path, once the session is admitted, and again for each queue pair. */
  readonly openDataPath: (welcome: Welcome, choices: RdmaChoices) => QueuePairPath;
  readonly connectQueuePair: (choices: RdmaChoices) => ConnectQueuePair;
}

/** What belongs to one queue pair. */
interface Allocated {
  readonly path: QueuePairPath;
  readonly welcome: Welcome;
  readonly choices: RdmaChoices;
  /** What stays open beside the path. */
  link?: Disposable;
}

/** The queue pairs of a session, one after the other: does what the exchange asks for. */
export class SessionQueuePair {
  #allocated: Allocated | undefined;
  #agreed: RdmaEstablished | undefined;
  #closing: Promise<unknown> = Promise.resolve();
  #usage: SessionUsage = {};

  constructor(private readonly transport: QueuePairTransport) {}

  /** The data path of the present one. */
  get path(): QueuePairPath {
    if (this.#allocated) return this.#allocated.path;
    throw new RdmaError("session_ended", "the session has ended");
  }

  /** Of the one that was connected last. */
  get agreed(): RdmaEstablished {
    return this.#agreed!;
  }

  /** What services have done for the peer by those that are closed. */
  get usage(): SessionUsage {
    return this.#usage;
  }

  async allocate(
    { welcome, choices }: Step & { do: "allocate" },
    epoch: number,
  ): Promise<QueuePairNumbers> {
    const { psns, openDataPath } = this.transport;
    const path = openDataPath(welcome, choices);
    this.#allocated = { path, welcome, choices };
    const queuePair = await path.allocate();
    return { ...queuePair, epoch, psn: psns.draw(queuePair.qpn) };
  }

  async connect(step: Step & { do: "connect" }): Promise<void> {
    const { do: _, cmToken, ...order } = step;
    try {
      await this.#connect(order, cmToken);
    } finally {
      if (order.seal) wipeKeys(order.seal);
    }
  }

  async #connect(order: ConnectOrder, cmToken: Uint8Array): Promise<void> {
    const allocated = this.#allocated!;
    const { welcome, choices } = allocated;
    const connect = this.transport.connectQueuePair(choices);
    const link = await connect(allocated.path, order, cmToken);
    if (this.#allocated !== allocated) return link[Symbol.dispose](); // it was closed meanwhile
    allocated.link = link;
    const { session } = welcome;
    const { local, remote, path } = order;
    this.#agreed = { transport: "rdma", session, local, remote, path, choices, welcome };
  }

  prove({ own, expected }: Step & { do: "prove" }): Promise<void> {
    return this.path.prove(own, expected);
  }

  /**
   * Frees what there is; the link also when the data path cannot be closed.
   *
   * @param reason as for a data path
   */
  async close(reason?: string): Promise<void> {
    const allocated = this.#allocated;
    this.#allocated = undefined;
    const closing = this.#free(allocated, reason);
    this.#closing = Promise.allSettled([this.#closing, closing]);
    await closing;
    await this.#closing;
  }

  async #free(allocated: Allocated | undefined, reason: string | undefined): Promise<void> {
    try {
      const final = await allocated?.path.close(reason);
      if (!final) return;
      this.#usage = sumOfUsage(this.#usage, final.usage);
      if (final.queuePair) this.transport.psns.retire(final.queuePair.qpn, final.queuePair.sqPsn);
    } finally {
      allocated?.link?.[Symbol.dispose]();
    }
  }
}
