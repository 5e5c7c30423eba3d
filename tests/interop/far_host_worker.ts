/** This file runs as a worker. */
import { type ClientOptions, meetServer, ServerEnd, type ServerOptions } from "./session_end.ts";

/** What it is told, one after the other. */
export type Order =
  | { readonly serve: ServerOptions }
  | { readonly stop: true }
  | { readonly meet: ClientOptions };

export type Answer = { readonly done: unknown } | { readonly error: string };

const worker = self as unknown as {
  postMessage(answer: Answer): void;
  addEventListener(type: "message", listener: (event: MessageEvent<Order>) => void): void;
};

let server: ServerEnd | undefined;

async function perform(order: Order): Promise<unknown> {
  if ("meet" in order) return await meetServer(order.meet);
  if ("stop" in order) return await server?.[Symbol.asyncDispose]();
  server = new ServerEnd(order.serve);
  return server.endpoint;
}

worker.addEventListener("message", async ({ data }) => {
  try {
    worker.postMessage({ done: await perform(data) });
  } catch (error) {
    worker.postMessage({
      error: error instanceof Error ? error.stack ?? error.message : `${error}`,
    });
  }
});
