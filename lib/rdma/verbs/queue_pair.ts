import { addressOf, pointerAt, pointerOf } from "../../../ffi/layout.ts";
import { FunctionCall } from "../../../ffi/libffi.ts";
import {
  ibvContext,
  ibvQp,
  ibvQpAttr,
  ibvQpInitAttr,
  libibverbs,
  V,
} from "../../../ffi/libibverbs.ts";
import { parseGid, pathMtuToEnum } from "../address.ts";
import {
  type AddressVector,
  checkTransition,
  type QueuePair,
  type QueuePairAttribute,
  type QueuePairAttributes,
  type QueuePairOptions,
  type QueuePairState,
  type QueuePairStatus,
  TransitionError,
  transitionOf,
} from "../queue_pair.ts";
import { accessFlags } from "../memory_region.ts";
import type { ReceiveWorkRequests, SendWorkRequests } from "../work_request.ts";
import { checkVerbs, VerbsError } from "./error.ts";
import { VerbsCompletionQueue } from "./completion_queue.ts";
import { VerbsObject } from "./object.ts";

/** States in the order of enum ibv_qp_state. */
const states: readonly QueuePairState[] = ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"];

type Attr = ReturnType<typeof ibvQpAttr.allocate>;

/** Of each attribute: its bit in the mask, and how it is written to struct ibv_qp_attr. */
const writers: {
  readonly [K in QueuePairAttribute]: readonly [
    mask: number,
    write: (attr: Attr, value: NonNullable<QueuePairAttributes[K]>) => void,
  ];
} = {
  pkeyIndex: [V.IBV_QP_PKEY_INDEX, (attr, value) => attr.set("pkey_index", value)],
  port: [V.IBV_QP_PORT, (attr, value) => attr.set("port_num", value)],
  access: [V.IBV_QP_ACCESS_FLAGS, (attr, value) => attr.set("qp_access_flags", accessFlags(value))],
  addressVector: [V.IBV_QP_AV, writeAddressVector],
  pathMtu: [V.IBV_QP_PATH_MTU, (attr, value) => attr.set("path_mtu", pathMtuToEnum(value))],
  destQpn: [V.IBV_QP_DEST_QPN, (attr, value) => attr.set("dest_qp_num", value)],
  rqPsn: [V.IBV_QP_RQ_PSN, (attr, value) => attr.set("rq_psn", value)],
  maxDestRdAtomic: [
    V.IBV_QP_MAX_DEST_RD_ATOMIC,
    (attr, value) => attr.set("max_dest_rd_atomic", value),
  ],
  minRnrTimer: [V.IBV_QP_MIN_RNR_TIMER, (attr, value) => attr.set("min_rnr_timer", value)],
  sqPsn: [V.IBV_QP_SQ_PSN, (attr, value) => attr.set("sq_psn", value)],
  timeout: [V.IBV_QP_TIMEOUT, (attr, value) => attr.set("timeout", value)],
  retryCount: [V.IBV_QP_RETRY_CNT, (attr, value) => attr.set("retry_cnt", value)],
  rnrRetry: [V.IBV_QP_RNR_RETRY, (attr, value) => attr.set("rnr_retry", value)],
  maxRdAtomic: [V.IBV_QP_MAX_QP_RD_ATOMIC, (attr, value) => attr.set("max_rd_atomic", value)],
};

/** Attributes that a call on another thread reads: not to be collected meanwhile. */
const kept = new Set<Attr>();

function writeAddressVector(attr: Attr, path: AddressVector): void {
  attr
    .set("ah_attr.grh.dgid", parseGid(path.dgid))
    .set("ah_attr.grh.flow_label", path.flowLabel)
    .set("ah_attr.grh.sgid_index", path.sgidIndex)
    .set("ah_attr.grh.hop_limit", path.hopLimit)
    .set("ah_attr.grh.traffic_class", path.trafficClass)
    .set("ah_attr.dlid", path.dlid)
    .set("ah_attr.sl", path.serviceLevel)
    .set("ah_attr.is_global", path.isGlobal ? 1 : 0)
    .set("ah_attr.port_num", path.port);
}

function write<K extends QueuePairAttribute>(
  attr: Attr,
  name: K,
  attributes: QueuePairAttributes,
): number {
  const value = attributes[name];
  if (value === undefined || value === null) return 0;
  const [mask, writer] = writers[name];
  writer(attr, value);
  return mask;
}

/** A reliable connected queue pair of libibverbs. */
export class VerbsQueuePair extends VerbsObject implements QueuePair {
  readonly qpn: number;
  readonly #postSend: FunctionCall;
  readonly #postReceive: FunctionCall;
  readonly #bad = new BigUint64Array(new ArrayBuffer(8));
  #state: QueuePairState = "RESET";

  constructor(
    context: Deno.PointerObject,
    protectionDomain: Deno.PointerObject,
    options: QueuePairOptions,
  ) {
    super(
      "ibv_create_qp",
      libibverbs().ibv_create_qp(protectionDomain, initAttributes(options).pointer),
      "ibv_destroy_qp",
      libibverbs().ibv_destroy_qp,
    );
    this.qpn = ibvQp.at(this.pointer).get("qp_num");
    const ops = ibvContext.at(context);
    this.#postSend = this.#postCall(pointerAt(ops.get("ops.post_send"))!);
    this.#postReceive = this.#postCall(pointerAt(ops.get("ops.post_recv"))!);
  }

  get state(): QueuePairState {
    return this.#state;
  }

  modify(attributes: QueuePairAttributes & { readonly state: QueuePairState }): void {
    const { attr, mask } = this.#transition(attributes);
    this.#enter(attributes, libibverbs().ibv_modify_qp(this.pointer, attr.pointer, mask));
  }

  async modifyAside(
    attributes: QueuePairAttributes & { readonly state: QueuePairState },
  ): Promise<void> {
    const { attr, mask } = this.#transition(attributes);
    kept.add(attr);
    try {
      const result = await libibverbs().ibv_modify_qp_aside(this.pointer, attr.pointer, mask);
      this.#enter(attributes, result);
    } finally {
      kept.delete(attr);
    }
  }

  /** Arguments of ibv_modify_qp. */
  #transition(
    attributes: QueuePairAttributes & { readonly state: QueuePairState },
  ): { attr: Attr; mask: number } {
    const { state: to } = attributes;
    checkTransition(this.#state, attributes);
    const attr = ibvQpAttr.allocate().set("qp_state", states.indexOf(to));
    const rule = transitionOf(this.#state, to)!;
    const mask = [...rule.required, ...rule.optional]
      .reduce((bits, name) => bits | write(attr, name, attributes), V.IBV_QP_STATE as number);
    return { attr, mask };
  }

  /** @param result of ibv_modify_qp */
  #enter(
    attributes: QueuePairAttributes & { readonly state: QueuePairState },
    result: number,
  ): void {
    const { state: to } = attributes;
    if (result !== 0) {
      const cause = new VerbsError("ibv_modify_qp", Math.abs(result));
      const given = Object.keys(attributes).filter((name) => name !== "state").join(", ");
      throw new TransitionError(
        this.#state,
        to,
        [],
        [],
        `${cause.message}; the device does not accept a value among ${given || "none"}`,
        { cause },
      );
    }
    this.#state = to;
  }

  query(): QueuePairStatus {
    const attr = ibvQpAttr.allocate();
    const mask = V.IBV_QP_STATE | V.IBV_QP_SQ_PSN | V.IBV_QP_RQ_PSN | V.IBV_QP_DEST_QPN;
    const result = libibverbs().ibv_query_qp(
      this.pointer,
      attr.pointer,
      mask,
      ibvQpInitAttr.allocate().pointer,
    );
    checkVerbs("ibv_query_qp", result);
    return {
      state: states[attr.get("qp_state")] ?? "ERR",
      sqPsn: attr.get("sq_psn"),
      rqPsn: attr.get("rq_psn"),
      destQpn: attr.get("dest_qp_num"),
    };
  }

  postSend(requests: SendWorkRequests, first = 0, count = 1): void {
    this.assertOpen();
    const result = this.#postSend.set(1, requests.chain(first, count)).call();
    if (result !== 0) throw new VerbsError("ibv_post_send", Math.abs(result));
  }

  postReceive(requests: ReceiveWorkRequests, first = 0, count = 1): void {
    this.assertOpen();
    const result = this.#postReceive.set(1, requests.chain(first, count)).call();
    if (result !== 0) throw new VerbsError("ibv_post_recv", Math.abs(result));
  }

  #postCall(operation: Deno.PointerObject): FunctionCall {
    return new FunctionCall(operation, [
      "pointer", // struct ibv_qp *qp
      "pointer", // struct ibv_send_wr *wr, or struct ibv_recv_wr *wr
      "pointer", // struct ibv_send_wr **bad_wr, or struct ibv_recv_wr **bad_wr
    ]).set(0, Number(addressOf(this.pointer))).set(2, Number(addressOf(pointerOf(this.#bad))));
  }
}

function initAttributes(options: QueuePairOptions) {
  const { sendQueue, receiveQueue } = options;
  if (
    !(sendQueue instanceof VerbsCompletionQueue && receiveQueue instanceof VerbsCompletionQueue)
  ) {
    throw new TypeError("a completion queue of another provider");
  }
  return ibvQpInitAttr.allocate()
    .set("send_cq", addressOf(sendQueue.pointer))
    .set("recv_cq", addressOf(receiveQueue.pointer))
    .set("cap.max_send_wr", options.maxSend)
    .set("cap.max_recv_wr", options.maxReceive)
    .set("cap.max_send_sge", options.maxSendSge ?? 1)
    .set("cap.max_recv_sge", options.maxReceiveSge ?? 1)
    .set("cap.max_inline_data", options.maxInline ?? 0)
    .set("qp_type", V.IBV_QPT_RC)
    .set("sq_sig_all", 0);
}
