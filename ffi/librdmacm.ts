import { library } from "./library.ts";
import { struct } from "./layout.ts";

/** librdmacm: resolving addresses, and the connection manager for `--connect cm`. */
export const librdmacm = library({ sonames: ["librdmacm.so.1"], package: "librdmacm1" }, {
  rdma_create_event_channel: { parameters: [], result: "pointer" },
  rdma_destroy_event_channel: {
    parameters: [
      "pointer", // struct rdma_event_channel *channel
    ],
    result: "void",
  },
  rdma_create_id: {
    parameters: [
      "pointer", // struct rdma_event_channel *channel
      "pointer", // struct rdma_cm_id **id
      "pointer", // void *context
      "i32", // enum rdma_port_space ps
    ],
    result: "i32",
  },
  // Waits until all events of the id are acknowledged.
  rdma_destroy_id: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
    ],
    result: "i32",
  },
  rdma_bind_addr: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "pointer", // struct sockaddr *addr
    ],
    result: "i32",
  },
  rdma_listen: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "i32", // int backlog
    ],
    result: "i32",
  },
  rdma_resolve_addr: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "pointer", // struct sockaddr *src_addr
      "pointer", // struct sockaddr *dst_addr
      "i32", // int timeout_ms
    ],
    result: "i32",
  },
  rdma_resolve_route: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "i32", // int timeout_ms
    ],
    result: "i32",
  },
  rdma_connect: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "pointer", // struct rdma_conn_param *conn_param
    ],
    result: "i32",
  },
  rdma_establish: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
    ],
    result: "i32",
  },
  rdma_accept: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "pointer", // struct rdma_conn_param *conn_param
    ],
    result: "i32",
  },
  rdma_init_qp_attr: {
    parameters: [
      "pointer", // struct rdma_cm_id *id
      "pointer", // struct ibv_qp_attr *qp_attr
      "pointer", // int *qp_attr_mask
    ],
    result: "i32",
  },
  rdma_get_cm_event: {
    parameters: [
      "pointer", // struct rdma_event_channel *channel
      "pointer", // struct rdma_cm_event **event
    ],
    result: "i32",
  },
  rdma_ack_cm_event: {
    parameters: [
      "pointer", // struct rdma_cm_event *event
    ],
    result: "i32",
  },
});

export const rdmaEventChannel = struct("rdma_event_channel", 4, {
  "fd": [0, "i32"],
});

export const rdmaCmId = struct("rdma_cm_id", 416, {
  "verbs": [0, "pointer"],
  "route.addr.dst_storage": [160, { bytes: 128 }],
  "route.addr.addr.ibaddr.sgid": [288, { bytes: 16 }],
  "port_num": [348, "u8"],
});

export const rdmaCmEvent = struct("rdma_cm_event", 80, {
  "id": [0, "pointer"],
  "listen_id": [8, "pointer"],
  "event": [16, "i32"],
  "status": [20, "i32"],
  "param.conn.private_data": [24, "pointer"],
  "param.conn.private_data_len": [32, "u8"],
  "param.conn.qp_num": [40, "u32"],
});

export const rdmaConnParam = struct("rdma_conn_param", 24, {
  "private_data": [0, "pointer"],
  "private_data_len": [8, "u8"],
  "responder_resources": [9, "u8"],
  "initiator_depth": [10, "u8"],
  "retry_count": [12, "u8"],
  "rnr_retry_count": [13, "u8"],
  "qp_num": [16, "u32"],
});

/** All structures above, for the comparison with the headers. */
export const rdmaCmStructures = [
  rdmaEventChannel,
  rdmaCmId,
  rdmaCmEvent,
  rdmaConnParam,
];

/** Constants of rdma_cma.h under their C names. */
export const CM = {
  RDMA_PS_TCP: 0x0106,
  RDMA_CM_EVENT_ADDR_RESOLVED: 0,
  RDMA_CM_EVENT_ADDR_ERROR: 1,
  RDMA_CM_EVENT_ROUTE_RESOLVED: 2,
  RDMA_CM_EVENT_ROUTE_ERROR: 3,
  RDMA_CM_EVENT_CONNECT_REQUEST: 4,
  RDMA_CM_EVENT_CONNECT_RESPONSE: 5,
  RDMA_CM_EVENT_CONNECT_ERROR: 6,
  RDMA_CM_EVENT_UNREACHABLE: 7,
  RDMA_CM_EVENT_REJECTED: 8,
  RDMA_CM_EVENT_ESTABLISHED: 9,
  RDMA_CM_EVENT_DISCONNECTED: 10,
  RDMA_CM_EVENT_DEVICE_REMOVAL: 11,
} as const;
