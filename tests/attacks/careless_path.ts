/** Data paths with a countermeasure of the session's taken out. */
import { RdmaError } from "../../lib/errors.ts";
import type { QueuePairPath } from "../../lib/session/data_path.ts";

/** What a client can send as a proof that knows nothing. */
export const KNOWN_TO_ALL = new Uint8Array(32);

/** One that expects a proof which everybody can give. */
export function unproven(path: QueuePairPath): QueuePairPath {
  return changed<QueuePairPath>(path, { prove: (own) => path.prove(own, KNOWN_TO_ALL) });
}

/** One that lets its peer have more READs outstanding than was agreed. */
export function manyReads(path: QueuePairPath): QueuePairPath {
  return changed(path, {
    connect: (order) => path.connect({ ...order, path: { ...order.path, maxDestRdAtomic: 128 } }),
  });
}

/** One whose failures end the session, as those of any error but a queue pair's do. */
export function unreplaced(path: QueuePairPath): QueuePairPath {
  const failure = path.failure.then(({ code, message }) => new RdmaError(code, message));
  return changed(path, { failure });
}

/** As the object does, a data path or what services see of it, but for the changes. */
export function changed<T extends object>(object: T, changes: Partial<T>): T {
  return new Proxy(object, {
    get(target, name) {
      const own = changes[name as keyof T] ?? target[name as keyof T];
      return typeof own === "function" ? own.bind(target) : own;
    },
  });
}
