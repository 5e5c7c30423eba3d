import type { Service } from "../control/messages.ts";
import { asVerbsealError, ProtocolError } from "../errors.ts";
import type { Frame } from "../control/frame.ts";
import { logger } from "../telemetry/log.ts";
import type { StreamPath } from "./data_path.ts";
import type { SessionPath, StreamEstablished } from "./session_path.ts";
import type { StreamLink } from "./stream_link.ts";

const log = logger("session");

/** The data path of a session over data connections: each is replaced before its keys have served for too long. */
export class StreamSessionPath implements SessionPath {
  readonly interruption = undefined;
  readonly epoch = 0;
  readonly #renewal: Promise<never>;

  /**
   * @param path that uses the first connection
   * @param link where the others come from
   */
  constructor(
    private readonly path: StreamPath,
    private readonly link: StreamLink,
    readonly agreed: StreamEstablished,
  ) {
    this.#renewal = this.#renew();
    this.#renewal.catch(() => {}); // of interest only while the session lasts
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

  async close(reason?: string): Promise<void> {
    try {
      await this.path.close(reason);
    } finally {
      this.link[Symbol.dispose]();
    }
  }

  /** Replaces the connection whenever that is due; rejects when it cannot, or the link is disposed. */
  async #renew(): Promise<never> {
    for (let epoch = 1;; epoch++) {
      await this.path.renewalDue?.();
      await this.path.use(await this.link.next());
      log.debug("data connection replaced", { epoch });
    }
  }
}
