import { addressOf } from "../../ffi/layout.ts";
import { C, check, libc, sockFilter, sockFprog } from "../../ffi/libc.ts";
import { descriptorOf, setAcceptedOptions } from "./descriptor.ts";

/** Where the second listener of an address begins. */
export interface Succession {
  readonly port: number;
  readonly reusePort: true;
}

/**
 * A listener that takes all connections which begin from now on. Those begun before stay with the
 * former one, which must go on accepting for a while: what waits in it when it is closed is lost.
 *
 * @param former has no successor yet; as it was before when this throws
 * @param listen begins to listen at the port given, with SO_REUSEPORT
 * @throws what `listen` throws
 */
export function successorOf(
  { addr }: Deno.TlsListener,
  listen: (succession: Succession) => Deno.TlsListener,
): Deno.TlsListener {
  const former = descriptorOf(addr)!;
  setShared(former, true);
  let successor: Deno.TlsListener;
  try {
    successor = listen({ port: addr.port, reusePort: true });
  } catch (error) {
    setShared(former, false);
    throw error;
  }
  const descriptor = descriptorOf(addr, undefined, former)!;
  takeAll(descriptor);
  // Two are enough: a third listener could take connections away unseen.
  setShared(descriptor, false);
  setAcceptedOptions(descriptor);
  return successor;
}

/** Whether other sockets of this user's may listen at the same address (SO_REUSEPORT of socket(7)). */
function setShared(listening: number, shared: boolean): void {
  setOption(listening, C.SO_REUSEPORT, Int32Array.of(shared ? 1 : 0));
}

/** In the order in which they began to listen the two are 0 and 1; a program says which gets a connection. */
function takeAll(second: number): void {
  const program = sockFilter.allocate().set("code", C.BPF_RET | C.BPF_K).set("k", 1);
  const filter = new Uint8Array(new ArrayBuffer(sockFprog.size));
  sockFprog.over(filter).set("len", 1).set("filter", addressOf(program.pointer));
  setOption(second, C.SO_ATTACH_REUSEPORT_CBPF, filter);
}

function setOption(descriptor: number, option: number, value: ArrayBufferView<ArrayBuffer>): void {
  const { setsockopt } = libc();
  check("setsockopt", setsockopt(descriptor, C.SOL_SOCKET, option, value, value.byteLength));
}
