import { addressOf } from "../../../ffi/layout.ts";
import { errno } from "../../../ffi/libc.ts";
import { librdmacm } from "../../../ffi/librdmacm.ts";
import type { RdmaError } from "../../errors.ts";
import { abortError, callError, endOf } from "./connection_error.ts";
import { DisposedError } from "../disposed_error.ts";
import { VerbsObject } from "./object.ts";

/** What the connection manager says, copied out of struct rdma_cm_event. */
export interface CmEvent {
  /** enum rdma_cm_event_type. */
  readonly type: number;
  readonly status: number;
  readonly privateData: Uint8Array<ArrayBuffer>;
  readonly remoteQpn: number;
}

/** What delivers events to identifiers: it knows each from its creation to its end. */
export interface EventSource {
  add(identifier: CommunicationIdentifier): void;
  remove(identifier: CommunicationIdentifier): void;
}

interface Expectation extends PromiseWithResolvers<CmEvent> {
  readonly type: number;
}

/**
 * A communication identifier (struct rdma_cm_id): what a socket is to TCP. It is destroyed as soon
 * as it comes to its end, whoever ends it. The kernel then tells the peer what its state calls for:
 * a request not accepted is rejected, a connection is disconnected.
 */
export class CommunicationIdentifier extends VerbsObject {
  readonly address: bigint;
  /** Called for every connection request of a listening identifier; must not throw. */
  onRequest?: (request: CommunicationIdentifier, event: CmEvent) => void;
  readonly #channel: EventSource;
  readonly #closed = Promise.withResolvers<RdmaError | undefined>();
  #end?: RdmaError;
  #expectation?: Expectation;

  /** @param where the address and port in question, for error messages */
  constructor(channel: EventSource, pointer: Deno.PointerObject, readonly where: string) {
    super("rdma_create_id", pointer, "rdma_destroy_id", destroy);
    this.address = addressOf(pointer);
    this.#channel = channel;
    channel.add(this);
  }

  /** Resolves at the end: to the error that brought it, to undefined when it was disposed here. */
  get closed(): Promise<RdmaError | undefined> {
    return this.#closed.promise;
  }

  /** @throws RdmaError when a call on this identifier returned an error */
  check(call: string, result: number): void {
    if (result !== 0) throw callError(call, this.where, errno());
  }

  /**
   * Waits for the event that answers a call. Any end that comes instead is thrown.
   *
   * @param signal ends the identifier when it aborts
   * @throws RdmaError
   */
  async expect(type: number, signal?: AbortSignal): Promise<CmEvent> {
    this.assertOpen();
    const expectation = this.#expectation = { type, ...Promise.withResolvers<CmEvent>() };
    const abort = () => this.end(abortError(signal?.reason, this.where));
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    try {
      return await expectation.promise;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Takes an event from the channel. */
  deliver(event: CmEvent): void {
    const end = endOf(event.type, event.status, this.where);
    if (end) this.end(end);
    else if (event.type === this.#expectation?.type) this.#expectation.resolve(event);
  }

  /** Destroys the identifier. */
  end(error?: RdmaError): void {
    if (this.disposed) return;
    if (error) this.#end = error;
    try {
      super[Symbol.dispose]();
    } finally {
      this.#channel.remove(this);
      this.#closed.resolve(error);
      this.#expectation?.reject(error ?? new DisposedError(this.constructor.name));
    }
  }

  override [Symbol.dispose](): void {
    this.end();
  }

  /** @throws RdmaError what brought the end, or DisposedError */
  protected override assertOpen(): void {
    if (this.#end) throw this.#end;
    super.assertOpen();
  }
}

function destroy(pointer: Deno.PointerObject): number {
  return librdmacm().rdma_destroy_id(pointer) === 0 ? 0 : errno();
}
