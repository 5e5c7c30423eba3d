import type { Service } from "../control/messages.ts";
import { asVerbsealError, ProtocolError } from "../errors.ts";
import type { Frame } from "../control/frame.ts";
import { logger } from "../telemetry/log.ts";
import { kernelText, type KernelTls } from "../tls/connection.ts";
import type { StreamPath } from "./data_path.ts";
import type { SessionPath, StreamEstablished } from "./session_path.ts";
import type { StreamLink } from "./stream_link.ts";
import type { SessionUsage } from "./usage.ts";

const log = logger("session");

/** The data path of a session over data connections: each is replaced before its keys have served for too long. */
export class StreamSessionPath implements SessionPath {
  readonly interruption = undefined;
  readonly epoch = 0;
  readonly #renewal: Promise<never>;
  #agreed: StreamEstablished;

  /**
   * @param path that uses the first connection
   * @param link where the others come from
   */
  constructor(
    private readonly path: StreamPath,
    private readonly link: StreamLink,
    agreed: StreamEstablished,
  ) {
    this.#agreed = agreed;
    this.#renewal = this.#renew();
    this.#renewal.catch(() => {}); // of interest only while the session lasts
  }

  /** Of the connection of the moment it says what the kernel does. */
  get agreed(): StreamEstablished {
    return this.#agreed;
  }

  request(service: Service, body: unknown): Promise<unknown> {
    return this.path.request(service, body);
  }

  take(frame: Frame): void {
    throw new ProtocolError("out_of_turn", `${frame.name} in a session without queue pairs`);
  }

  after(): Promise<never> {
    return this.run();
  }

  async run(): Promise<never> {
    throw await Promise.race([
      this.path.failure,
      this.#renewal.catch((error) => asVerbsealError("renewal", error)),
    ]);
  }

  async close(reason?: string): Promise<SessionUsage> {
    try {
      return (await this.path.close(reason)).usage;
    } finally {
      this.link[Symbol.dispose]();
    }
  }

  /** Replaces the connection whenever that is due; rejects when it cannot, or the link is disposed. */
  async #renew(): Promise<never> {
    for (let epoch = 1;; epoch++) {
      await this.path.renewalDue?.();
      const kernel = await this.path.use(await this.link.next());
      this.#logReplaced(epoch, kernel);
      this.#agreed = { ...this.#agreed, kernel };
    }
  }

  /** What the kernel did for the connection before, it need not do for this one. */
  #logReplaced(epoch: number, kernel: KernelTls): void {
    const { session, kernel: before } = this.#agreed;
    const facts = { session, epoch, ktls: kernelText(kernel) };
    log.debug("data connection replaced", facts);
    const lost = (before.send && !kernel.send) || (before.receive && !kernel.receive);
    if (!lost) return;
    log.warning("this process seals ktls data itself, which the kernel did before", {
      ...facts,
      before: kernelText(before),
      remedy: "look at the kernel's log, and whether its module tls was unloaded",
    });
  }
}
