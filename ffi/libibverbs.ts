import { library } from "./library.ts";
import { struct } from "./layout.ts";

/** libibverbs. What verbs.h defines as inline functions goes through `ibv_context.ops` and ffi/libffi.ts. */
export const libibverbs = library({ sonames: ["libibverbs.so.1"], package: "libibverbs1" }, {
  ibv_get_device_list: {
    parameters: [
      "pointer", // int *num_devices
    ],
    result: "pointer",
  },
  ibv_free_device_list: {
    parameters: [
      "pointer", // struct ibv_device **list
    ],
    result: "void",
  },
  ibv_open_device: {
    parameters: [
      "pointer", // struct ibv_device *device
    ],
    result: "pointer",
  },
  ibv_close_device: {
    parameters: [
      "pointer", // struct ibv_context *context
    ],
    result: "i32",
  },
  ibv_query_device: {
    parameters: [
      "pointer", // struct ibv_context *context
      "pointer", // struct ibv_device_attr *device_attr
    ],
    result: "i32",
  },
  ibv_query_port: {
    parameters: [
      "pointer", // struct ibv_context *context
      "u8", // uint8_t port_num
      "pointer", // struct _compat_ibv_port_attr *port_attr
    ],
    result: "i32",
  },
  _ibv_query_gid_ex: {
    parameters: [
      "pointer", // struct ibv_context *context
      "u32", // uint32_t port_num
      "u32", // uint32_t gid_index
      "pointer", // struct ibv_gid_entry *entry
      "u32", // uint32_t flags
      "usize", // size_t entry_size
    ],
    result: "i32",
  },
  ibv_alloc_pd: {
    parameters: [
      "pointer", // struct ibv_context *context
    ],
    result: "pointer",
  },
  ibv_dealloc_pd: {
    parameters: [
      "pointer", // struct ibv_pd *pd
    ],
    result: "i32",
  },
  ibv_reg_mr: {
    parameters: [
      "pointer", // struct ibv_pd *pd
      "pointer", // void *addr
      "usize", // size_t length
      "i32", // int access
    ],
    result: "pointer",
  },
  // On another thread, as pages are looked up and pinned: what goes wrong, errno does not tell here.
  ibv_reg_mr_aside: {
    name: "ibv_reg_mr",
    parameters: [
      "pointer", // struct ibv_pd *pd
      "pointer", // void *addr
      "usize", // size_t length
      "i32", // int access
    ],
    result: "pointer",
    nonblocking: true,
  },
  ibv_dereg_mr: {
    parameters: [
      "pointer", // struct ibv_mr *mr
    ],
    result: "i32",
  },
  // As above; it returns its error number.
  ibv_dereg_mr_aside: {
    name: "ibv_dereg_mr",
    parameters: [
      "pointer", // struct ibv_mr *mr
    ],
    result: "i32",
    nonblocking: true,
  },
  ibv_create_comp_channel: {
    parameters: [
      "pointer", // struct ibv_context *context
    ],
    result: "pointer",
  },
  ibv_destroy_comp_channel: {
    parameters: [
      "pointer", // struct ibv_comp_channel *channel
    ],
    result: "i32",
  },
  ibv_create_cq: {
    parameters: [
      "pointer", // struct ibv_context *context
      "i32", // int cqe
      "pointer", // void *cq_context
      "pointer", // struct ibv_comp_channel *channel
      "i32", // int comp_vector
    ],
    result: "pointer",
  },
  ibv_destroy_cq: {
    parameters: [
      "pointer", // struct ibv_cq *cq
    ],
    result: "i32",
  },
  ibv_get_cq_event: {
    parameters: [
      "pointer", // struct ibv_comp_channel *channel
      "pointer", // struct ibv_cq **cq
      "pointer", // void **cq_context
    ],
    result: "i32",
  },
  ibv_ack_cq_events: {
    parameters: [
      "pointer", // struct ibv_cq *cq
      "u32", // unsigned int nevents
    ],
    result: "void",
  },
  ibv_create_qp: {
    parameters: [
      "pointer", // struct ibv_pd *pd
      "pointer", // struct ibv_qp_init_attr *qp_init_attr
    ],
    result: "pointer",
  },
  ibv_modify_qp: {
    parameters: [
      "pointer", // struct ibv_qp *qp
      "pointer", // struct ibv_qp_attr *attr
      "i32", // int attr_mask
    ],
    result: "i32",
  },
  // On another thread, as the kernel asks the network for the peer's MAC address, for a second at most.
  ibv_modify_qp_aside: {
    name: "ibv_modify_qp",
    parameters: [
      "pointer", // struct ibv_qp *qp
      "pointer", // struct ibv_qp_attr *attr
      "i32", // int attr_mask
    ],
    result: "i32",
    nonblocking: true,
  },
  ibv_query_qp: {
    parameters: [
      "pointer", // struct ibv_qp *qp
      "pointer", // struct ibv_qp_attr *attr
      "i32", // int attr_mask
      "pointer", // struct ibv_qp_init_attr *init_attr
    ],
    result: "i32",
  },
  ibv_destroy_qp: {
    parameters: [
      "pointer", // struct ibv_qp *qp
    ],
    result: "i32",
  },
  ibv_get_async_event: {
    parameters: [
      "pointer", // struct ibv_context *context
      "pointer", // struct ibv_async_event *event
    ],
    result: "i32",
  },
  ibv_ack_async_event: {
    parameters: [
      "pointer", // struct ibv_async_event *event
    ],
    result: "void",
  },
});

export const ibvDevice = struct("ibv_device", 664, {
  "transport_type": [20, "i32"],
  "name": [24, { bytes: 64 }],
});

export const ibvContext = struct("ibv_context", 328, {
  "device": [0, "pointer"],
  "ops.alloc_mw": [64, "pointer"],
  "ops.dealloc_mw": [80, "pointer"],
  "ops.poll_cq": [96, "pointer"],
  "ops.req_notify_cq": [104, "pointer"],
  "ops.post_send": [208, "pointer"],
  "ops.post_recv": [216, "pointer"],
  "async_fd": [268, "i32"],
});

export const ibvDeviceAttr = struct("ibv_device_attr", 232, {
  "fw_ver": [0, { bytes: 64 }],
  "max_mr_size": [80, "u64"],
  "vendor_id": [96, "u32"],
  "max_qp": [108, "i32"],
  "max_qp_wr": [112, "i32"],
  "device_cap_flags": [116, "u32"],
  "max_sge": [120, "i32"],
  "max_cq": [128, "i32"],
  "max_cqe": [132, "i32"],
  "max_mr": [136, "i32"],
  "max_pd": [140, "i32"],
  "max_qp_rd_atom": [144, "i32"],
  "max_qp_init_rd_atom": [156, "i32"],
  "atomic_cap": [164, "i32"],
  "max_mw": [176, "i32"],
  "phys_port_cnt": [227, "u8"],
});

export const ibvPortAttr = struct("ibv_port_attr", 52, {
  "state": [0, "i32"],
  "max_mtu": [4, "i32"],
  "active_mtu": [8, "i32"],
  "gid_tbl_len": [12, "i32"],
  "max_msg_sz": [20, "u32"],
  "lid": [34, "u16"],
  "link_layer": [46, "u8"],
});

export const ibvGidEntry = struct("ibv_gid_entry", 32, {
  "gid": [0, { bytes: 16 }],
  "gid_index": [16, "u32"],
  "port_num": [20, "u32"],
  "gid_type": [24, "u32"],
  "ndev_ifindex": [28, "u32"],
});

export const ibvMr = struct("ibv_mr", 48, {
  "lkey": [36, "u32"],
  "rkey": [40, "u32"],
});

export const ibvMw = struct("ibv_mw", 32, {
  "rkey": [16, "u32"],
});

export const ibvCompChannel = struct("ibv_comp_channel", 16, {
  "fd": [8, "i32"],
});

export const ibvQp = struct("ibv_qp", 160, {
  "qp_num": [52, "u32"],
});

export const ibvQpInitAttr = struct("ibv_qp_init_attr", 64, {
  "send_cq": [8, "pointer"],
  "recv_cq": [16, "pointer"],
  "cap.max_send_wr": [32, "u32"],
  "cap.max_recv_wr": [36, "u32"],
  "cap.max_send_sge": [40, "u32"],
  "cap.max_recv_sge": [44, "u32"],
  "cap.max_inline_data": [48, "u32"],
  "qp_type": [52, "i32"],
  "sq_sig_all": [56, "i32"],
});

export const ibvQpAttr = struct("ibv_qp_attr", 144, {
  "qp_state": [0, "i32"],
  "path_mtu": [8, "i32"],
  "rq_psn": [20, "u32"],
  "sq_psn": [24, "u32"],
  "dest_qp_num": [28, "u32"],
  "qp_access_flags": [32, "u32"],
  "ah_attr.grh.dgid": [56, { bytes: 16 }],
  "ah_attr.grh.flow_label": [72, "u32"],
  "ah_attr.grh.sgid_index": [76, "u8"],
  "ah_attr.grh.hop_limit": [77, "u8"],
  "ah_attr.grh.traffic_class": [78, "u8"],
  "ah_attr.dlid": [80, "u16"],
  "ah_attr.sl": [82, "u8"],
  "ah_attr.is_global": [85, "u8"],
  "ah_attr.port_num": [86, "u8"],
  "pkey_index": [120, "u16"],
  "max_rd_atomic": [126, "u8"],
  "max_dest_rd_atomic": [127, "u8"],
  "min_rnr_timer": [128, "u8"],
  "port_num": [129, "u8"],
  "timeout": [130, "u8"],
  "retry_cnt": [131, "u8"],
  "rnr_retry": [132, "u8"],
});

export const ibvSge = struct("ibv_sge", 16, {
  "addr": [0, "u64"],
  "length": [8, "u32"],
  "lkey": [12, "u32"],
});

export const ibvSendWr = struct("ibv_send_wr", 128, {
  "wr_id": [0, "u64"],
  "next": [8, "pointer"],
  "sg_list": [16, "pointer"],
  "num_sge": [24, "i32"],
  "opcode": [28, "i32"],
  "send_flags": [32, "u32"],
  "imm_data": [36, "u32"],
  "invalidate_rkey": [36, "u32"],
  "wr.rdma.remote_addr": [40, "u64"],
  "wr.rdma.rkey": [48, "u32"],
  "wr.atomic.compare_add": [48, "u64"],
  "wr.atomic.swap": [56, "u64"],
  "wr.atomic.rkey": [64, "u32"],
  "bind_mw.mw": [80, "pointer"],
  "bind_mw.rkey": [88, "u32"],
  "bind_mw.bind_info.mr": [96, "pointer"],
  "bind_mw.bind_info.addr": [104, "u64"],
  "bind_mw.bind_info.length": [112, "u64"],
  "bind_mw.bind_info.mw_access_flags": [120, "u32"],
});

export const ibvRecvWr = struct("ibv_recv_wr", 32, {
  "wr_id": [0, "u64"],
  "next": [8, "pointer"],
  "sg_list": [16, "pointer"],
  "num_sge": [24, "i32"],
});

export const ibvWc = struct("ibv_wc", 48, {
  "wr_id": [0, "u64"],
  "status": [8, "i32"],
  "opcode": [12, "i32"],
  "vendor_err": [16, "u32"],
  "byte_len": [20, "u32"],
  "imm_data": [24, "u32"],
  "qp_num": [28, "u32"],
  "wc_flags": [36, "u32"],
});

export const ibvAsyncEvent = struct("ibv_async_event", 16, {
  "element": [0, "pointer"],
  "event_type": [8, "i32"],
});

/** All structures above, for the comparison with the headers. */
export const verbsStructures = [
  ibvDevice,
  ibvContext,
  ibvDeviceAttr,
  ibvPortAttr,
  ibvGidEntry,
  ibvMr,
  ibvMw,
  ibvCompChannel,
  ibvQp,
  ibvQpInitAttr,
  ibvQpAttr,
  ibvSge,
  ibvSendWr,
  ibvRecvWr,
  ibvWc,
  ibvAsyncEvent,
];

/** Constants of verbs.h under their C names, checked against the header like the structures. */
export const V = {
  IBV_TRANSPORT_IB: 0,
  IBV_PORT_DOWN: 1,
  IBV_PORT_INIT: 2,
  IBV_PORT_ARMED: 3,
  IBV_PORT_ACTIVE: 4,
  IBV_LINK_LAYER_INFINIBAND: 1,
  IBV_LINK_LAYER_ETHERNET: 2,
  IBV_GID_TYPE_IB: 0,
  IBV_GID_TYPE_ROCE_V1: 1,
  IBV_GID_TYPE_ROCE_V2: 2,
  IBV_QPT_RC: 2,
  IBV_QPS_RESET: 0,
  IBV_QPS_INIT: 1,
  IBV_QPS_RTR: 2,
  IBV_QPS_RTS: 3,
  IBV_QPS_SQD: 4,
  IBV_QPS_SQE: 5,
  IBV_QPS_ERR: 6,
  IBV_QP_STATE: 1 << 0,
  IBV_QP_ACCESS_FLAGS: 1 << 3,
  IBV_QP_PKEY_INDEX: 1 << 4,
  IBV_QP_PORT: 1 << 5,
  IBV_QP_AV: 1 << 7,
  IBV_QP_PATH_MTU: 1 << 8,
  IBV_QP_TIMEOUT: 1 << 9,
  IBV_QP_RETRY_CNT: 1 << 10,
  IBV_QP_RNR_RETRY: 1 << 11,
  IBV_QP_RQ_PSN: 1 << 12,
  IBV_QP_MAX_QP_RD_ATOMIC: 1 << 13,
  IBV_QP_MIN_RNR_TIMER: 1 << 15,
  IBV_QP_SQ_PSN: 1 << 16,
  IBV_QP_MAX_DEST_RD_ATOMIC: 1 << 17,
  IBV_QP_DEST_QPN: 1 << 20,
  IBV_ACCESS_LOCAL_WRITE: 1 << 0,
  IBV_ACCESS_REMOTE_WRITE: 1 << 1,
  IBV_ACCESS_REMOTE_READ: 1 << 2,
  IBV_ACCESS_REMOTE_ATOMIC: 1 << 3,
  IBV_ACCESS_MW_BIND: 1 << 4,
  IBV_MW_TYPE_2: 2,
  IBV_DEVICE_MEM_WINDOW_TYPE_2A: 1 << 23,
  IBV_DEVICE_MEM_WINDOW_TYPE_2B: 1 << 24,
  IBV_WR_RDMA_WRITE: 0,
  IBV_WR_RDMA_WRITE_WITH_IMM: 1,
  IBV_WR_SEND: 2,
  IBV_WR_SEND_WITH_IMM: 3,
  IBV_WR_RDMA_READ: 4,
  IBV_WR_ATOMIC_CMP_AND_SWP: 5,
  IBV_WR_ATOMIC_FETCH_AND_ADD: 6,
  IBV_WR_LOCAL_INV: 7,
  IBV_WR_BIND_MW: 8,
  IBV_SEND_FENCE: 1 << 0,
  IBV_SEND_SIGNALED: 1 << 1,
  IBV_SEND_SOLICITED: 1 << 2,
  IBV_SEND_INLINE: 1 << 3,
  IBV_WC_WITH_IMM: 1 << 1,
  IBV_WC_SEND: 0,
  IBV_WC_RDMA_WRITE: 1,
  IBV_WC_RDMA_READ: 2,
  IBV_WC_COMP_SWAP: 3,
  IBV_WC_FETCH_ADD: 4,
  IBV_WC_RECV: 1 << 7,
  IBV_WC_RECV_RDMA_WITH_IMM: (1 << 7) + 1,
  IBV_EVENT_CQ_ERR: 0,
  IBV_EVENT_QP_FATAL: 1,
  IBV_EVENT_QP_REQ_ERR: 2,
  IBV_EVENT_QP_ACCESS_ERR: 3,
  IBV_EVENT_DEVICE_FATAL: 8,
  IBV_EVENT_PORT_ACTIVE: 9,
  IBV_EVENT_PORT_ERR: 10,
  IBV_EVENT_QP_LAST_WQE_REACHED: 16,
} as const;

/** Names of enum ibv_wc_status in the order of their values, which start at 0. */
export const WC_STATUS_NAMES = [
  "IBV_WC_SUCCESS",
  "IBV_WC_LOC_LEN_ERR",
  "IBV_WC_LOC_QP_OP_ERR",
  "IBV_WC_LOC_EEC_OP_ERR",
  "IBV_WC_LOC_PROT_ERR",
  "IBV_WC_WR_FLUSH_ERR",
  "IBV_WC_MW_BIND_ERR",
  "IBV_WC_BAD_RESP_ERR",
  "IBV_WC_LOC_ACCESS_ERR",
  "IBV_WC_REM_INV_REQ_ERR",
  "IBV_WC_REM_ACCESS_ERR",
  "IBV_WC_REM_OP_ERR",
  "IBV_WC_RETRY_EXC_ERR",
  "IBV_WC_RNR_RETRY_EXC_ERR",
  "IBV_WC_LOC_RDD_VIOL_ERR",
  "IBV_WC_REM_INV_RD_REQ_ERR",
  "IBV_WC_REM_ABORT_ERR",
  "IBV_WC_INV_EECN_ERR",
  "IBV_WC_INV_EEC_STATE_ERR",
  "IBV_WC_FATAL_ERR",
  "IBV_WC_RESP_TIMEOUT_ERR",
  "IBV_WC_GENERAL_ERR",
] as const;

export type WcStatusName = typeof WC_STATUS_NAMES[number];
