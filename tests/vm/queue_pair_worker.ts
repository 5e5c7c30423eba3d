import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import type { QueuePairAttributes, QueuePairStatus } from "../../lib/rdma/queue_pair.ts";
import { rxe } from "../provider.ts";
import { ReliableEnd } from "../rdma/resources.ts";

/** A queue pair in a thread of its own: what it says, in this order. */
export type FromQueuePairWorker =
  | { readonly created: { readonly qpn: number; readonly psn: number } }
  | { readonly connected: QueuePairStatus }
  | { readonly received: Uint8Array };

/** What it is told, once. */
export interface ToQueuePairWorker {
  readonly init: QueuePairAttributes & { readonly state: "INIT" };
  readonly rtr: QueuePairAttributes & { readonly state: "RTR" };
  readonly rts: QueuePairAttributes & { readonly state: "RTS" };
}

/** This file runs as a worker. */
const worker = self as unknown as {
  postMessage(message: FromQueuePairWorker): void;
  addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
  close(): void;
};

const resources = new DisposableStack();
const end = resources.use(new ReliableEnd(resources.use(new VerbsDevice(rxe.device))));

worker.addEventListener("message", async ({ data }: MessageEvent<ToQueuePairWorker>) => {
  const { queuePair, queue, region, receives, memory } = end;
  queuePair.modify(data.init);
  receives.prepare(0, 1).buffer(0, region.address, 64, region.lkey);
  queuePair.postReceive(receives);
  queuePair.modify(data.rtr);
  queuePair.modify({ ...data.rts, sqPsn: end.psn });
  worker.postMessage({ connected: queuePair.query() });
  await queue.next();
  const received = memory.bytes.slice(0, queue.completions.byteLength(0));
  resources.dispose();
  worker.postMessage({ received });
  worker.close();
});
worker.postMessage({ created: { qpn: end.queuePair.qpn, psn: end.psn } });
