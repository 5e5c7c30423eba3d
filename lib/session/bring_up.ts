import { IntegrityError } from "../errors.ts";
import type { Access } from "../rdma/memory_region.ts";
import type { QueuePair, QueuePairAttributes } from "../rdma/queue_pair.ts";
import type { ConnectOrder, PortChoice } from "./data_path.ts";

/** What the peer may do through a queue pair, besides SEND; atomics never. */
const ACCESS: readonly Access[] = ["REMOTE_READ", "REMOTE_WRITE"];

/** Acknowledgements are awaited for 4.096 µs × 2^14, that is 67 ms, and asked for 7 times. */
const TIMEOUT = 14;
export const RETRY_COUNT = 7;

/** RNR retries; 7 would mean for ever. */
export const RNR_RETRY = 6;

/** Code of 0.64 ms (IBTA volume 1, table 45). */
const MIN_RNR_TIMER = 12;

const HOP_LIMIT = 64;

/**
 * Brings a queue pair from RESET to RTS with exactly the numbers agreed, and compares what the
 * device made of them. Nothing has been sent yet: PSNs advance with traffic.
 *
 * @param afterInit posts receives, before the peer can send
 * @throws TransitionError when the device refuses
 * @throws IntegrityError when it reports another PSN or queue pair number than agreed
 */
export async function bringUp(
  queuePair: QueuePair,
  port: PortChoice,
  order: ConnectOrder,
  afterInit: () => void,
): Promise<void> {
  const { local, remote, managed } = order;
  queuePair.modify({
    ...managed?.init ?? { pkeyIndex: 0, port: port.port },
    state: "INIT",
    access: ACCESS,
  });
  afterInit();
  const rtr = {
    ...managed?.rtr ?? readyToReceive(port, order),
    state: "RTR",
    rqPsn: remote.psn,
    minRnrTimer: MIN_RNR_TIMER,
  } as const;
  // A peer may name an address that nobody answers for: others on this thread do not wait for that.
  if (queuePair.modifyAside) await queuePair.modifyAside(rtr);
  else queuePair.modify(rtr);
  queuePair.modify({
    ...managed?.rts ?? readyToSend(order),
    state: "RTS",
    sqPsn: local.psn,
    timeout: TIMEOUT,
  });
  const status = queuePair.query();
  const agreed = { sqPsn: local.psn, rqPsn: remote.psn, destQpn: remote.qpn };
  for (const name of ["sqPsn", "rqPsn", "destQpn"] as const) {
    if (status[name] !== agreed[name]) {
      throw new IntegrityError(
        "psn_not_as_agreed",
        `the device reports ${name} ${status[name]}, agreed was ${agreed[name]}`,
        "do not use this device: it does not keep to the numbers that it is given",
      );
    }
  }
}

function readyToReceive(port: PortChoice, { remote, path }: ConnectOrder): QueuePairAttributes {
  return {
    addressVector: {
      dgid: remote.gid,
      sgidIndex: port.gidIndex,
      hopLimit: HOP_LIMIT,
      trafficClass: 0,
      flowLabel: 0,
      serviceLevel: 0,
      dlid: remote.lid,
      isGlobal: port.gidType !== "InfiniBand",
      port: port.port,
      ...(remote.udpPort === undefined ? {} : { udpPort: remote.udpPort }),
    },
    pathMtu: path.mtu,
    destQpn: remote.qpn,
    maxDestRdAtomic: path.maxDestRdAtomic,
  };
}

function readyToSend({ path }: ConnectOrder): QueuePairAttributes {
  return {
    retryCount: RETRY_COUNT,
    rnrRetry: RNR_RETRY,
    maxRdAtomic: path.maxRdAtomic,
  };
}
