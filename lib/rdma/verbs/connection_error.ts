import { errnoName } from "../../../ffi/libc.ts";
import { CM } from "../../../ffi/librdmacm.ts";
import { errorText, RdmaError } from "../../errors.ts";

/** Likely causes by call and error number. */
const remedies: Readonly<Record<string, string>> = {
  "rdma_create_event_channel ENODEV": "load the kernel's connection manager: modprobe rdma_ucm",
  "rdma_create_event_channel ENOENT": "load the kernel's connection manager: modprobe rdma_ucm",
  "rdma_create_event_channel EACCES": "the user needs access to /dev/infiniband/rdma_cm",
  "rdma_create_event_channel EPERM": "the user needs access to /dev/infiniband/rdma_cm",
  // The kernel says this also of an address that is here and a port of it that is taken.
  "rdma_bind_addr EADDRNOTAVAIL":
    "another program listens on this RDMA port, or the address is not one of this host: choose another",
  "rdma_bind_addr EADDRINUSE": "another program listens on this RDMA port: choose another one",
  "rdma_listen EADDRINUSE": "another program listens on this RDMA port: choose another one",
  "rdma_bind_addr ENODEV": "give an address whose network interface has an RDMA device",
  "rdma_resolve_addr ENODEV":
    "no RDMA device is on the way to this address: see rdma link, ip route",
  "rdma_resolve_addr ENETUNREACH": "there is no route to this address: see ip route",
};

/** A call of librdmacm that failed. */
export function callError(call: string, where: string, errno: number): RdmaError {
  const name = errnoName(errno);
  return new RdmaError(
    "cm_call_failed",
    `${call} failed with ${name} for ${where}`,
    remedies[`${call} ${name}`] ?? "",
  );
}

type Ending = readonly [code: string, message: (where: string) => string, remedy: string];

/** Reasons of a REJ message that mean something to the user (IBTA volume 1, section 12.6.7.2). */
const rejections: Readonly<Record<number, Ending>> = {
  4: [
    "cm_peer_gave_up",
    (where) => `${where} gave up while the connection was being made`,
    "look at the peer's log",
  ],
  8: [
    "cm_nobody_listens",
    (where) => `nobody listens for RDMA connections at ${where}`,
    "check that the server runs with its connection manager on this port",
  ],
  10: [
    "cm_stale_connection",
    (where) => `${where} still holds a former connection of the same queue pair number`,
    "try again in some seconds",
  ],
  28: [
    "cm_rejected",
    (where) => `${where} rejected the connection`,
    "look at the peer's log: it may be at its limits, or the request was not the one agreed in TLS",
  ],
};

/** Events after which nothing more comes of an identifier. */
const endings: Readonly<Record<number, Ending>> = {
  [CM.RDMA_CM_EVENT_ADDR_ERROR]: [
    "cm_address_unresolved",
    (where) => `no RDMA device reaches ${where}, or it does not answer there`,
    "check the address, ip neighbour and rdma link",
  ],
  [CM.RDMA_CM_EVENT_ROUTE_ERROR]: [
    "cm_route_unresolved",
    (where) => `there is no RDMA route to ${where}`,
    "check the subnet manager on InfiniBand, ip route elsewhere",
  ],
  [CM.RDMA_CM_EVENT_CONNECT_ERROR]: [
    "cm_connect_failed",
    (where) => `the connection with ${where} could not be made`,
    "",
  ],
  [CM.RDMA_CM_EVENT_UNREACHABLE]: [
    "cm_unreachable",
    (where) => `${where} does not answer the connection manager`,
    "check that UDP port 4791 is open between the hosts",
  ],
  [CM.RDMA_CM_EVENT_REJECTED]: ["cm_rejected", (where) => `${where} rejected the connection`, ""],
  [CM.RDMA_CM_EVENT_DISCONNECTED]: ["cm_disconnected", (where) => `${where} disconnected`, ""],
  [CM.RDMA_CM_EVENT_DEVICE_REMOVAL]: [
    "cm_device_removed",
    (where) => `the RDMA device of ${where} was removed`,
    "",
  ],
};

/**
 * The error that an event stands for, or undefined when the identifier lives on.
 *
 * @param event type, enum rdma_cm_event_type
 * @param status a negative error number, or the reason of a REJ message
 */
export function endOf(event: number, status: number, where: string): RdmaError | undefined {
  const ending = (event === CM.RDMA_CM_EVENT_REJECTED ? rejections[status] : undefined) ??
    endings[event];
  if (!ending) return undefined;
  const [code, message, remedy] = ending;
  return new RdmaError(code, `${message(where)}${statusText(status)}`, remedy);
}

function statusText(status: number): string {
  if (status === 0) return "";
  return status < 0 ? ` (${errnoName(-status)})` : ` (reason ${status})`;
}

/** The error for a wait that its signal ended. */
export function abortError(reason: unknown, where: string): RdmaError {
  if (reason instanceof RdmaError) return reason;
  if (reason instanceof DOMException && reason.name === "TimeoutError") {
    return new RdmaError(
      "cm_timeout",
      `${where} did not answer the connection manager in time`,
      "check that the peer runs and that UDP port 4791 is open between the hosts",
    );
  }
  return new RdmaError(
    "cm_aborted",
    `connecting with ${where} was given up: ${errorText(reason)}`,
    "",
    { cause: reason },
  );
}
