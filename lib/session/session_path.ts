import type { Frame } from "../control/frame.ts";
import type { QueuePairNumbers, RdmaChoices, Service, Welcome } from "../control/messages.ts";
import type { AgreedPath } from "../control/path.ts";
import type { QueuePairError } from "../errors.ts";
import { type HandshakeFacts, kernelText, type KernelTls } from "../tls/connection.ts";
import type { SessionUsage } from "./usage.ts";

/** What was agreed, for logs and for `--json`. */
export type Established = RdmaEstablished | StreamEstablished;

/** PSNs are those of the first packets. */
export interface RdmaEstablished {
  readonly transport: "rdma";
  readonly session: string;
  readonly local: QueuePairNumbers;
  readonly remote: QueuePairNumbers;
  readonly path: AgreedPath;
  readonly choices: RdmaChoices;
  readonly welcome: Welcome;
}

/** A session over a data connection has no numbers of queue pairs. */
export interface StreamEstablished {
  readonly transport: "ktls";
  readonly session: string;
  /** Which records the kernel seals and opens at this end. */
  readonly kernel: KernelTls;
  /** What the first data connection's handshake agreed on. */
  readonly handshake: HandshakeFacts;
  /** Of that connection, as for TlsConnection. */
  readonly peerCertificates: readonly Uint8Array[];
  readonly welcome: Welcome;
}

/** What a log line tells of a data connection. */
export function streamFields({ kernel, handshake }: StreamEstablished): Record<string, unknown> {
  const { version, cipher } = handshake;
  return { transport: "ktls", ktls: kernelText(kernel), tls: version, cipher };
}

/** Who wants to know what becomes of queue pairs. */
export interface SessionPathListener {
  /** What was under way on a queue pair has ended with it. */
  interrupted?(why: QueuePairError): void;
  /** Another queue pair is established; facts as the log has them. */
  replaced?(facts: Record<string, unknown>): void;
}

/** What carries the data of an established session, for as long as the session lasts. */
export interface SessionPath {
  /** With another queue pair its numbers are others. */
  readonly agreed: Established;
  /**
   * Passes a REQUEST to the service and gives the body of its REPLY.
   *
   * @throws QueuePairError when the queue pair failed that the peer had when it asked
   */
  request(service: Service, body: unknown): Promise<unknown>;
  /**
   * Takes a frame that is about queue pairs.
   *
   * @throws ProtocolError when there are too many
   */
  take(frame: Frame): void;
  /**
   * Why nothing can be asked for now: another queue pair takes the former one's place. Undefined
   * while there is one.
   */
  readonly interruption: QueuePairError | undefined;
  /** Resolves when a queue pair is established that is later than that of this epoch. */
  after(epoch: number): Promise<void>;
  /** Of the queue pair that was established last. */
  readonly epoch: number;
  /**
   * Keeps the path going.
   *
   * @throws VerbsealError when it cannot go on, which ends the session
   */
  run(listener: SessionPathListener): Promise<never>;
  /**
   * Frees everything, exactly once.
   *
   * @param reason as for a data path
   * @returns what services have done for the peer, by all data paths
   */
  close(reason?: string): Promise<SessionUsage>;
}
