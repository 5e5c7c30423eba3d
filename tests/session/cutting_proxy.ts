/** TCP between client and server that can be cut off, as by a network that has gone, or held up. */
import { closeQuietly } from "../../lib/tls/tcp.ts";
import { provider } from "../provider.ts";

export class CuttingProxy implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: provider.address, port: 0 });
  readonly #connections = new Set<Deno.TcpConn>();
  readonly #running: Promise<void>;
  /** Port of the server that connections are passed on to. */
  target: number;
  /** Connections so far. */
  accepted = 0;
  /** What servers have sent while it is held. */
  #held: Held | undefined;

  constructor(target: number) {
    this.target = target;
    this.#running = this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** Ends all connections, at both sides. */
  cut(): void {
    for (const connection of this.#connections) closeQuietly(connection);
    this.#connections.clear();
  }

  /** Keeps what servers send from their clients. */
  hold(): Held {
    return this.#held = new Held(() => this.#held = undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.cut();
    await this.#running;
  }

  async #accept(): Promise<void> {
    for await (const near of this.#listener) {
      this.accepted += 1;
      this.#connections.add(near);
      try {
        const far = await Deno.connect({ hostname: provider.address, port: this.target });
        this.#connections.add(far);
        for (const [from, to] of [[near, far], [far, near]] as const) {
          const passing = from === far ? from.readable.pipeThrough(this.#dam()) : from.readable;
          passing.pipeTo(to.writable).catch(() => {});
        }
      } catch {
        closeQuietly(near);
      }
    }
  }

  #dam(): TransformStream<Bytes, Bytes> {
    return new TransformStream({
      transform: (bytes, controller) => {
        if (this.#held) this.#held.take(bytes, controller);
        else controller.enqueue(bytes);
      },
    });
  }
}

type Bytes = Uint8Array<ArrayBuffer>;

/** What is kept from one client. */
class Held {
  #bytes: Bytes = new Uint8Array(0);
  #to: TransformStreamDefaultController<Bytes> | undefined;
  #arrival = Promise.withResolvers<void>();

  constructor(private readonly forget: () => void) {}

  take(bytes: Bytes, to: TransformStreamDefaultController<Bytes>): void {
    this.#bytes = new Uint8Array([...this.#bytes, ...bytes]);
    this.#to = to;
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers();
  }

  /** Resolves when the server sends more. */
  more(): Promise<void> {
    return this.#arrival.promise;
  }

  /** Passes on all of it in one piece, and what comes then as it comes. */
  release(): void {
    this.forget();
    this.#to?.enqueue(this.#bytes);
  }
}
