/** Two guests with a virtual wire between them, of which all packets are recorded. */
import { join } from "node:path";
import { delay } from "@std/async/delay";
import { type GuestOptions, type GuestResult, runInGuest } from "./guest.ts";

/** What one of the two guests runs; the wire and the result directory are given. */
export type WiredGuest = Omit<GuestOptions, "wire" | "resultDirectory" | "signal">;

/** Two guests, and where to leave what they make. */
export interface WireOptions {
  /** 10.9.0.1 and fd09::1. */
  first: WiredGuest;
  /** 10.9.0.2 and fd09::2. */
  second: WiredGuest;
  /** Host directory; `first` and `second` in it are the guests' /results. */
  resultDirectory: string;
}

/** How the two guests ended, and what went over the wire. */
export interface WireResult {
  first: GuestResult;
  second: GuestResult;
  /** Path of a pcap file with every packet in both directions: wire.pcap in the result directory. */
  capture: string;
}

/**
 * Boots two guests at once, each with its own v0 of MTU 9000 and rxe0 on it. Each script starts when
 * the other guest answers on the wire.
 *
 * @throws GuestError if one of the two did not come to the end of its script; both have ended then
 */
export async function runOnWire(options: WireOptions): Promise<WireResult> {
  const capture = join(options.resultDirectory, "wire.pcap");
  // In a directory of its own: a socket's path has about a hundred characters at most.
  const directory = await Deno.makeTempDir({ prefix: "verbseal-wire-" });
  const socket = join(directory, "wire");
  const failure = new AbortController();
  const end = async (name: "first" | "second", qemu: string[]): Promise<GuestResult> => {
    const resultDirectory = join(options.resultDirectory, name);
    await Deno.mkdir(resultDirectory, { recursive: true });
    const wire = { number: name === "first" ? 1 : 2, qemu } as const;
    return await runInGuest({ ...options[name], resultDirectory, wire, signal: failure.signal });
  };
  /** The first failure ends the other guest too, and is the reason that the caller gets. */
  const orAbort = (run: Promise<GuestResult>) =>
    run.catch((error) => {
      failure.abort(failure.signal.reason ?? error);
      return undefined;
    });
  try {
    const firstRun = orAbort(end("first", [...card(1, socket), ...recorder(capture)]));
    await listening(socket, failure.signal);
    const secondRun = orAbort(end("second", card(2, socket)));
    const [first, second] = await Promise.all([firstRun, secondRun]);
    if (first === undefined || second === undefined) throw failure.signal.reason;
    return { first, second, capture };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** QEMU arguments for a network card on a Unix socket, of which the first guest is the server. */
function card(number: 1 | 2, socket: string): string[] {
  const server = number === 1 ? "on" : "off";
  // QEMU gives every card the same address, and rxe sends to its own address by itself.
  const mac = `52:54:00:00:00:0${number}`;
  return [
    ...["-netdev", `stream,id=wire,server=${server},addr.type=unix,addr.path=${socket}`],
    ...["-device", `virtio-net-pci,netdev=wire,host_mtu=9000,mac=${mac}`],
  ];
}

function recorder(capture: string): string[] {
  return ["-object", `filter-dump,id=recorder,netdev=wire,file=${capture.replaceAll(",", ",,")}`];
}

/** Waits until QEMU listens on the socket: the other end may connect once only. */
async function listening(socket: string, signal: AbortSignal): Promise<void> {
  // Lines of the kernel's table: address, references, protocol, flags (10000 is listening), …, path.
  const line = new RegExp(`^\\S+ \\S+ \\S+ 00010000 .*${RegExp.escape(socket)}$`, "m");
  while (!signal.aborted && !line.test(await Deno.readTextFile("/proc/net/unix"))) {
    await delay(20);
  }
}
