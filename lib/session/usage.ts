import type { Service } from "../control/messages.ts";

/** What a service has done for a peer up to now. It is counted in place: messages allocate nothing. */
export interface ServiceUsage {
  /** Questions, transfers and grants, be it that they failed. */
  calls: number;
  /** Bytes of the peer's: of questions, of files put, of memory granted to be written. */
  received: number;
  /** Bytes for the peer: of answers, of files got, of memory granted to be read. */
  sent: number;
}

/** Of the services that were called. */
export type SessionUsage = Partial<Record<Service, ServiceUsage>>;

export function noUsage(): ServiceUsage {
  return { calls: 0, received: 0, sent: 0 };
}

/** Of services that run in a session; a client's count nothing. */
export function usageOf(
  services: ReadonlyMap<Service, { readonly usage?: ServiceUsage }>,
): SessionUsage {
  const called = [...services].filter(([, { usage }]) => usage && usage.calls > 0);
  return Object.fromEntries(called.map(([name, { usage }]) => [name, usage]));
}

/** What was done by one data path, and by another of the same session. */
export function sumOfUsage(one: SessionUsage, other: SessionUsage): SessionUsage {
  const sum = { ...one };
  for (const [name, more] of Object.entries(other) as [Service, ServiceUsage][]) {
    const { calls, received, sent } = sum[name] ?? noUsage();
    sum[name] = {
      calls: calls + more.calls,
      received: received + more.received,
      sent: sent + more.sent,
    };
  }
  return sum;
}
