import type { Endpoint } from "../../lib/tls/connection.ts";
import type { NetworkNamespace } from "../vm/namespace.ts";
import type { Answer, Order } from "./far_host_worker.ts";
import type { ClientOptions, ServerOptions, SessionOutcome } from "./session_end.ts";

/** Verbseal on the other host: a thread in the network namespace. Disposing it ends the thread. */
export class FarHost implements Disposable {
  readonly #worker: Worker;

  constructor(namespace: NetworkNamespace) {
    const module = new URL("./far_host_worker.ts", import.meta.url);
    // Threads are born into the namespace of the thread that starts them, and so are theirs.
    this.#worker = namespace.within(() => new Worker(module, { type: "module" }));
  }

  /** Starts a server, one at a time; {@linkcode stop} ends it. */
  async serve(options: ServerOptions): Promise<Endpoint> {
    return await this.#ask({ serve: options }) as Endpoint;
  }

  async stop(): Promise<void> {
    await this.#ask({ stop: true });
  }

  /** As meetServer() does here. */
  async meet(options: ClientOptions): Promise<SessionOutcome> {
    return await this.#ask({ meet: options }) as SessionOutcome;
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }

  #ask(order: Order): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }: MessageEvent<Answer>) =>
        "error" in data ? reject(new Error(`on the far host: ${data.error}`)) : resolve(data.done);
      this.#worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(`the far host failed: ${event.message}`));
      };
      this.#worker.postMessage(order);
    });
  }
}
