import { constants } from "node:os";
import { forget, readable, setNonblocking } from "../../../ffi/epoll.ts";
import { pointerAt, pointerOf } from "../../../ffi/layout.ts";
import { errno } from "../../../ffi/libc.ts";
import { CM, librdmacm, rdmaCmEvent, rdmaCmId, rdmaEventChannel } from "../../../ffi/librdmacm.ts";
import {
  type CmEvent,
  CommunicationIdentifier,
  type EventSource,
} from "./communication_identifier.ts";
import { callError } from "./connection_error.ts";
import { withLibraries } from "./library_error.ts";
import { VerbsObject } from "./object.ts";
import { addressIn } from "./socket_address.ts";

/** Events taken before other work of the thread gets its turn. */
const batch = 16;

/** Where the events of communication identifiers arrive. It ends with the last of them. */
export class EventChannel extends VerbsObject implements EventSource {
  readonly #fd: number;
  readonly #identifiers = new Map<bigint, CommunicationIdentifier>();

  constructor() {
    super("rdma_create_event_channel", create(), "rdma_destroy_event_channel", destroy);
    this.#fd = rdmaEventChannel.at(this.pointer).get("fd");
    setNonblocking(this.#fd);
    this.#deliverEvents();
  }

  add(identifier: CommunicationIdentifier): void {
    this.#identifiers.set(identifier.address, identifier);
  }

  remove(identifier: CommunicationIdentifier): void {
    this.#identifiers.delete(identifier.address);
    if (this.#identifiers.size === 0) this[Symbol.dispose]();
  }

  override [Symbol.dispose](): void {
    if (!this.disposed) forget(this.#fd);
    super[Symbol.dispose]();
  }

  async #deliverEvents(): Promise<void> {
    while (!this.disposed && await readable(this.#fd)) {
      for (let taken = 0; taken < batch && this.#deliverEvent(); taken++);
    }
  }

  /** Returns false when there is none. */
  #deliverEvent(): boolean {
    if (this.disposed) return false;
    const out = new BigUint64Array(new ArrayBuffer(8));
    if (librdmacm().rdma_get_cm_event(this.pointer, pointerOf(out)) !== 0) {
      const error = errno();
      if (error !== constants.errno.EAGAIN && error !== constants.errno.EINTR) this.#fail(error);
      return false;
    }
    const pointer = pointerAt(out[0]!)!;
    const raw = rdmaCmEvent.at(pointer);
    const [id, listener] = [raw.get("id"), raw.get("listen_id")];
    const event = copy(raw);
    // At once: rdma_destroy_id waits for events that are not acknowledged.
    librdmacm().rdma_ack_cm_event(pointer);
    if (event.type === CM.RDMA_CM_EVENT_CONNECT_REQUEST) this.#deliverRequest(id, listener, event);
    else this.#identifiers.get(id)?.deliver(event);
    return true;
  }

  #deliverRequest(id: bigint, listener: bigint, event: CmEvent): void {
    const pointer = pointerAt(id)!;
    const peer = addressIn(rdmaCmId.at(pointer).get("route.addr.dst_storage"));
    const request = new CommunicationIdentifier(this, pointer, peer);
    const onRequest = this.#identifiers.get(listener)?.onRequest;
    if (onRequest) onRequest(request, event);
    else request.end();
  }

  /** Without events no identifier can go on. */
  #fail(error: number): void {
    for (const identifier of [...this.#identifiers.values()]) {
      identifier.end(callError("rdma_get_cm_event", identifier.where, error));
    }
  }
}

/**
 * Creates a communication identifier for reliable connections, with an event channel of its own.
 *
 * @param where the address and port in question, for error messages
 * @throws RdmaError when the kernel has no connection manager, or does not let this user have it
 */
export function openIdentifier(where: string): CommunicationIdentifier {
  const channel = withLibraries(() => new EventChannel());
  const out = new BigUint64Array(new ArrayBuffer(8));
  const result = librdmacm()
    .rdma_create_id(channel.pointer, pointerOf(out), null, CM.RDMA_PS_TCP);
  if (result !== 0) {
    const error = callError("rdma_create_id", where, errno());
    channel[Symbol.dispose]();
    throw error;
  }
  return new CommunicationIdentifier(channel, pointerAt(out[0]!)!, where);
}

function create(): Deno.PointerObject {
  const pointer = librdmacm().rdma_create_event_channel();
  if (pointer === null) throw callError("rdma_create_event_channel", "this host", errno());
  return pointer;
}

function destroy(pointer: Deno.PointerObject): number {
  librdmacm().rdma_destroy_event_channel(pointer);
  return 0;
}

function copy(raw: ReturnType<typeof rdmaCmEvent.at>): CmEvent {
  const data = pointerAt(raw.get("param.conn.private_data"));
  const privateData = new Uint8Array(raw.get("param.conn.private_data_len"));
  if (data) Deno.UnsafePointerView.copyInto(data, privateData);
  return {
    type: raw.get("event"),
    status: raw.get("status"),
    privateData,
    remoteQpn: raw.get("param.conn.qp_num"),
  };
}
