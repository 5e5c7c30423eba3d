/** A second host in one guest: a network namespace with the other end of the veth pair in it. */
import { pointerOf } from "../../ffi/layout.ts";
import { C, check, libc } from "../../ffi/libc.ts";
import { library } from "../../ffi/library.ts";
import { eventually } from "../program.ts";

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
/** The kind of namespace, for setns(2). */
const CLONE_NEWNET = 0x4000_0000;
const PORT_STATE = "/sys/class/infiniband/rxe0/ports/1/state";
/** Whether sockets may have addresses of other hosts (ip-sysctl.rst of Linux). */
const NONLOCAL_BIND = "/proc/sys/net/ipv4/ip_nonlocal_bind";
/** Whether an end takes packets from an address that its own host has too. */
const acceptLocal = (end: string) => `/proc/sys/net/ipv4/conf/${end}/accept_local`;

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
    await run("ip", "netns", "add", name);
    await run("ip", "link", "set", FAR_END, "netns", name);
    const namespace = new NetworkNamespace(name);
    await namespace.#ip("link", "set", "lo", "up");
    await namespace.#ip("link", "set", FAR_END, "up");
    await namespace.#ip("address", "add", `${NetworkNamespace.addresses.ipv4}/24`, "dev", FAR_END);
    await namespace.setMtu();
    await portActive();
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
   * @param bytes with IP and UDP headers; 9000 unless told
   */
  async setMtu(bytes = MTU): Promise<void> {
    await this.#ip("link", "set", FAR_END, "mtu", String(bytes));
    if (bytes < IPV6_MINIMUM_MTU) return;
    // The kernel takes the addresses away when the MTU falls below, and does not bring them back.
    const { ipv6 } = NetworkNamespace.addresses;
    await this.#ip("address", "replace", `${ipv6}/64`, "dev", FAR_END, "nodad");
  }

  /**
   * Lets sockets here have an address of the near end's host, and that take what they send. Queue pairs
   * of rxe0 that are connected with each other use no wire; so packets come to them in the other one's
   * name all the same.
   */
  async impersonate(address: string): Promise<void> {
    await this.#ip("address", "add", `${address}/32`, "dev", FAR_END);
    // What goes to the address has to leave the namespace nevertheless.
    await this.#ip("route", "delete", "local", address, "dev", FAR_END, "table", "local");
    const settings = [NONLOCAL_BIND, acceptLocal(FAR_END)];
    const set = settings.map((setting) => `echo 1 >${setting}`).join(" && ");
    await run("ip", "netns", "exec", this.name, "sh", "-c", set);
    await Deno.writeTextFile(acceptLocal(NEAR_END), "1");
  }

  /**
   * Disturbs what both ends send, until the result is disposed.
   *
   * @param rules of tc-netem(8), for example ["loss", "1%"]
   */
  async disturb(...rules: string[]): Promise<Disturbance> {
    const disturbance = new Disturbance(this.name);
    await disturbance.begin(rules);
    return disturbance;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.writeTextFile(acceptLocal(NEAR_END), "0");
    await this.#ip("link", "set", FAR_END, "netns", "1");
    await run("ip", "link", "set", FAR_END, "mtu", String(MTU), "up");
    await run("ip", "netns", "delete", this.name);
    await portActive();
  }

  #ip(...words: string[]): Promise<string> {
    return run("ip", "-netns", this.name, ...words);
  }
}

/** Loss, delay and reordering on both ends of the wire. Disposing it ends them. */
export class Disturbance implements AsyncDisposable {
  /** Words for tc(8) that lead to the ends: its options, and the device. */
  readonly #ends: readonly (readonly [options: readonly string[], device: string])[];

  constructor(namespace: string) {
    this.#ends = [[[], NEAR_END], [["-netns", namespace], FAR_END]];
  }

  async begin(rules: readonly string[]): Promise<void> {
    for (const [options, device] of this.#ends) {
      await run("tc", ...options, "qdisc", "add", "dev", device, "root", "netem", ...rules);
    }
  }

  /** Packets lost so far. */
  async lost(): Promise<number> {
    let sum = 0;
    for (const [options, device] of this.#ends) {
      const text = await run(
        "tc",
        ...options,
        "-statistics",
        "-json",
        "qdisc",
        "show",
        "dev",
        device,
      );
      sum += JSON.parse(text)[0].drops;
    }
    return sum;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const [options, device] of this.#ends) {
      await run("tc", ...options, "qdisc", "delete", "dev", device, "root");
    }
  }
}

function openNamespace(path: string): number {
  const name = new TextEncoder().encode(`${path}\0`);
  return check("open", namespaces().open(pointerOf(name), C.O_RDONLY | C.O_CLOEXEC));
}

/** The wire has no carrier while one end moves, and rxe0 notices that a moment later. */
function portActive(): Promise<void> {
  const isActive = async () => (await Deno.readTextFile(PORT_STATE)).includes("ACTIVE");
  return eventually("rxe0 is active", isActive, 30_000);
}

async function run(program: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  if (success) return new TextDecoder().decode(stdout);
  throw new Error(`${program} ${args.join(" ")}: ${new TextDecoder().decode(stderr).trim()}`);
}
