/** TCP between client and server that can be cut off, as by a network that has gone. */
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
          from.readable.pipeTo(to.writable).catch(() => {});
        }
      } catch {
        closeQuietly(near);
      }
    }
  }
}
