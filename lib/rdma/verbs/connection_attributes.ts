import { ibvQpAttr, V } from "../../../ffi/libibverbs.ts";
import { librdmacm } from "../../../ffi/librdmacm.ts";
import { pointerOf } from "../../../ffi/layout.ts";
import { formatGid, pathMtuFromEnum } from "../address.ts";
import type { AddressVector, QueuePairAttribute, QueuePairAttributes } from "../queue_pair.ts";
import type { CommunicationIdentifier } from "./communication_identifier.ts";

/** What is not the connection manager's to choose. */
type OwnAttribute = "rqPsn" | "sqPsn" | "access" | "minRnrTimer";

/**
 * Attributes for a transition of a queue pair, less those that its owner must add, as the
 * transition is refused without them: the PSNs, where the connection manager's travel in the clear;
 * access, where it would grant all; and the RNR timer, which no CM message carries.
 */
export type ConnectionAttributes<State extends "INIT" | "RTR" | "RTS"> =
  & Omit<QueuePairAttributes, "state" | OwnAttribute>
  & { readonly state: State };

type Attr = ReturnType<typeof ibvQpAttr.allocate>;

/** Of each attribute: its bit in the mask, and how it is read from struct ibv_qp_attr. */
const readers: {
  readonly [K in Exclude<QueuePairAttribute, OwnAttribute>]: readonly [
    mask: number,
    read: (attr: Attr) => NonNullable<QueuePairAttributes[K]>,
  ];
} = {
  pkeyIndex: [V.IBV_QP_PKEY_INDEX, (attr) => attr.get("pkey_index")],
  port: [V.IBV_QP_PORT, (attr) => attr.get("port_num")],
  addressVector: [V.IBV_QP_AV, readAddressVector],
  pathMtu: [V.IBV_QP_PATH_MTU, (attr) => pathMtuFromEnum(attr.get("path_mtu"))],
  destQpn: [V.IBV_QP_DEST_QPN, (attr) => attr.get("dest_qp_num")],
  maxDestRdAtomic: [V.IBV_QP_MAX_DEST_RD_ATOMIC, (attr) => attr.get("max_dest_rd_atomic")],
  timeout: [V.IBV_QP_TIMEOUT, (attr) => attr.get("timeout")],
  retryCount: [V.IBV_QP_RETRY_CNT, (attr) => attr.get("retry_cnt")],
  rnrRetry: [V.IBV_QP_RNR_RETRY, (attr) => attr.get("rnr_retry")],
  maxRdAtomic: [V.IBV_QP_MAX_QP_RD_ATOMIC, (attr) => attr.get("max_rd_atomic")],
};

function readAddressVector(attr: Attr): AddressVector {
  return {
    dgid: formatGid(attr.get("ah_attr.grh.dgid")),
    sgidIndex: attr.get("ah_attr.grh.sgid_index"),
    hopLimit: attr.get("ah_attr.grh.hop_limit"),
    trafficClass: attr.get("ah_attr.grh.traffic_class"),
    flowLabel: attr.get("ah_attr.grh.flow_label"),
    serviceLevel: attr.get("ah_attr.sl"),
    dlid: attr.get("ah_attr.dlid"),
    isGlobal: attr.get("ah_attr.is_global") !== 0,
    port: attr.get("ah_attr.port_num"),
  };
}

const states = { INIT: V.IBV_QPS_INIT, RTR: V.IBV_QPS_RTR, RTS: V.IBV_QPS_RTS } as const;

/** What rdma_init_qp_attr(3) gives for a transition to `state`. */
export function connectionAttributes<State extends keyof typeof states>(
  identifier: CommunicationIdentifier,
  state: State,
): ConnectionAttributes<State> {
  const attr = ibvQpAttr.allocate().set("qp_state", states[state]);
  const mask = new Int32Array(new ArrayBuffer(4));
  const result = librdmacm().rdma_init_qp_attr(identifier.pointer, attr.pointer, pointerOf(mask));
  identifier.check("rdma_init_qp_attr", result);
  const given = Object.entries(readers)
    .filter(([, [bit]]) => (mask[0]! & bit) !== 0)
    .map(([name, [, read]]) => [name, read(attr)]);
  return { state, ...Object.fromEntries(given) };
}
