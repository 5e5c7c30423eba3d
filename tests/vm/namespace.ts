/** A second host in one guest: a network namespace with the other end of the veth pair in it. */
import { pointerOf } from "../../ffi/layout.ts";
import { C, check, libc } from "../../ffi/libc.ts";
import { library } from "../../ffi/library.ts";

/** The guest's own end of the veth pair, on which rxe0 stands. */
const NEAR_END = "v0";
/** The end that is in the namespace. */
const FAR_END = "v1";
const MTU = 9000;
/** RFC 8200, section 5. */
const IPV6_MINIMUM_MTU = 1280;
/** Where iproute2 keeps namespaces that have a name. */
const DIRECTORY = "/run/netns";
/** The namespace of the calling thread. */
const OWN = "/proc/thread-self/ns/net";
/** Sort of namespace, for setns(2). */
const CLONE_NEWNET = 0x4000_0000;

const namespaces = library({ sonames: ["libc.so.6"], package: "libc6" }, {
  open: {
    parameters: [
      "pointer", // const char *pathname
      "i32", // int flags
    ],
    result: "i32",
  },
  setns: {
    parameters: [
      "i32", // int fd
      "i32", // int nstype
    ],
    result: "i32",
  },
});

/**
 * A host of its own as far as IP and RoCE can tell, on the other end of rxe0's wire: 10.9.0.2 and
 * fd09::2. One in a guest at a time. Disposing it puts the veth pair back as it was.
 */
export class NetworkNamespace implements AsyncDisposable {
  static readonly addresses = { ipv4: "10.9.0.2", ipv6: "fd09::2" } as const;

  private constructor(readonly name: string) {}

  static async create(): Promise<NetworkNamespace> {
    const name = "far";
    await ip("netns", "add", name);
    await ip("link", "set", FAR_END, "netns", name);
    const namespace = new NetworkNamespace(name);
    await namespace.#ip("link", "set", "lo", "up");
    await namespace.#ip("link", "set", FAR_END, "up");
    await namespace.#ip("address", "add", `${NetworkNamespace.addresses.ipv4}/24`, "dev", FAR_END);
    await namespace.setMtu(MTU);
    return namespace;
  }

  /** A command that runs in the namespace. */
  command(
    program: string | URL,
    { args = [], ...options }: Deno.CommandOptions = {},
  ): Deno.Command {
    const words = ["netns", "exec", this.name, String(program), ...args];
    return new Deno.Command("ip", { ...options, args: words });
  }

  /**
   * Runs `work` with the calling thread in the namespace: sockets that it opens and threads that it
   * starts belong there for good. It must not await: what else the thread has to do would be there too.
   */
  within<T>(work: () => T): T {
    using stack = new DisposableStack();
    const back = stack.adopt(openNamespace(OWN), libc().close);
    const there = stack.adopt(openNamespace(`${DIRECTORY}/${this.name}`), libc().close);
    check("setns", namespaces().setns(there, CLONE_NEWNET));
    stack.defer(() => check("setns", namespaces().setns(back, CLONE_NEWNET)));
    return work();
  }

  /**
   * Sets the interface's MTU in the namespace; rxe0 keeps its own. Below 1280 there is no IPv6.
   *
   * @param bytes with IP and UDP headers
   */
  async setMtu(bytes: number): Promise<void> {
    await this.#ip("link", "set", FAR_END, "mtu", String(bytes));
    if (bytes < IPV6_MINIMUM_MTU) return;
    // The kernel takes the addresses away when the MTU falls below, and does not bring them back.
    const { ipv6 } = NetworkNamespace.addresses;
    await this.#ip("address", "replace", `${ipv6}/64`, "dev", FAR_END, "nodad");
  }

  /**
   * Disturbs what both ends send, until the result is disposed.
   *
   * @param rules of tc-netem(8), for example ["loss", "1%"]
   */
  async disturb(...rules: string[]): Promise<AsyncDisposable> {
    await using stack = new AsyncDisposableStack();
    for (const [run, end] of [[tc, NEAR_END], [this.#tc, FAR_END]] as const) {
      await run("qdisc", "add", "dev", end, "root", "netem", ...rules);
      stack.defer(() => run("qdisc", "delete", "dev", end, "root"));
    }
    return stack.move();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ip("link", "set", FAR_END, "netns", "1");
    await ip("link", "set", FAR_END, "mtu", String(MTU), "up");
    await ip("netns", "delete", this.name);
  }

  readonly #ip = (...words: string[]): Promise<void> => ip("-netns", this.name, ...words);

  readonly #tc = (...words: string[]): Promise<void> => tc("-netns", this.name, ...words);
}

function openNamespace(path: string): number {
  const name = new TextEncoder().encode(`${path}\0`);
  return check("open", namespaces().open(pointerOf(name), C.O_RDONLY | C.O_CLOEXEC));
}

const ip = (...words: string[]): Promise<void> => run("ip", words);

const tc = (...words: string[]): Promise<void> => run("tc", words);

async function run(program: string, args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args }).output();
  if (success) return;
  throw new Error(`${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr).trim()}`);
}
