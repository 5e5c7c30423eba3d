import { constants } from "node:os";
import {
  ETHTOOL,
  ethtoolGetFeaturesBlock,
  ethtoolGfeatures,
  ethtoolGstrings,
  ethtoolSsetInfo,
  ethtoolStats,
} from "../../ffi/ethtool.ts";
import { addressOf, cString, textOf } from "../../ffi/layout.ts";
import { C, check, errno, ifNameindex, ifreq, libc, SystemError } from "../../ffi/libc.ts";

/** Features of a block, a bit each. */
const BLOCK_FEATURES = 32;

/**
 * A kernel may write as many strings and counters as there are by then, whatever room there is, and
 * there are more when somebody has just given the interface more queues. Never touched otherwise.
 */
const SPARE_BYTES = 2 ** 20;

/** State of a feature of an interface, as `ethtool -k` shows it. */
export interface FeatureState {
  readonly on: boolean;
  /** Whether it can be switched: what is not is `[fixed]` for ethtool. */
  readonly changeable: boolean;
  /** Whether somebody wants it on: what it needs may be missing. */
  readonly requested: boolean;
}

/**
 * Asks the kernel about network interfaces (netdevice(7), linux/ethtool.h), which needs no
 * privilege. All that takes a name throws SystemError ENODEV when no interface has it any more.
 */
export class InterfaceSocket implements Disposable {
  readonly #socket = check("socket", libc().socket(C.AF_INET, C.SOCK_DGRAM | C.SOCK_CLOEXEC, 0));

  /** Flags of an interface: C.IFF_LOOPBACK and others. */
  flags(name: string): number {
    const request = ifreq.allocate().set("ifr_name", cString(name));
    check("ioctl", libc().ioctl(this.#socket, BigInt(C.SIOCGIFFLAGS), request.pointer));
    return request.get("ifr_flags");
  }

  /** All features that the kernel knows, by name, as in `ethtool -k`. */
  features(name: string): Map<string, FeatureState> {
    const names = this.#strings(name, ETHTOOL.ETH_SS_FEATURES);
    const blocks = Math.ceil(names.length / BLOCK_FEATURES);
    const bytes = new Uint8Array(ethtoolGfeatures.size + blocks * ethtoolGetFeaturesBlock.size);
    ethtoolGfeatures.over(bytes).set("cmd", ETHTOOL.ETHTOOL_GFEATURES).set("size", blocks);
    this.#ask(name, bytes);
    return decodeFeatures(names, bytes.subarray(ethtoolGfeatures.size));
  }

  /**
   * The counters of the interface's driver, by name, as in `ethtool -S`; above 2^53 rounded.
   *
   * @throws SystemError EAGAIN when there are more or fewer from one moment to the next
   */
  statistics(name: string): Map<string, number> {
    const names = this.#strings(name, ETHTOOL.ETH_SS_STATS);
    if (names.length === 0) return new Map();
    const length = names.length * BigUint64Array.BYTES_PER_ELEMENT;
    const bytes = new Uint8Array(ethtoolStats.size + length + SPARE_BYTES);
    const request = ethtoolStats.over(bytes).set("cmd", ETHTOOL.ETHTOOL_GSTATS)
      .set("n_stats", names.length);
    this.#ask(name, bytes);
    mustBe(names.length, request.get("n_stats"));
    return decodeStatistics(names, bytes.subarray(ethtoolStats.size));
  }

  [Symbol.dispose](): void {
    libc().close(this.#socket);
  }

  #strings(name: string, set: number): string[] {
    const count = this.#count(name, set);
    if (count === 0) return [];
    const length = count * ETHTOOL.ETH_GSTRING_LEN;
    const bytes = new Uint8Array(ethtoolGstrings.size + length + SPARE_BYTES);
    const request = ethtoolGstrings.over(bytes).set("cmd", ETHTOOL.ETHTOOL_GSTRINGS)
      .set("string_set", set).set("len", count);
    this.#ask(name, bytes);
    mustBe(count, request.get("len"));
    return decodeStrings(bytes.subarray(ethtoolGstrings.size), count);
  }

  /** Strings in a set; 0 where the driver has no such set. */
  #count(name: string, set: number): number {
    const bytes = new Uint8Array(ethtoolSsetInfo.size + Uint32Array.BYTES_PER_ELEMENT);
    const request = ethtoolSsetInfo.over(bytes).set("cmd", ETHTOOL.ETHTOOL_GSSET_INFO)
      .set("sset_mask", 1n << BigInt(set));
    this.#ask(name, bytes);
    if (request.get("sset_mask") === 0n) return 0;
    return new DataView(bytes.buffer).getUint32(ethtoolSsetInfo.size, true);
  }

  #ask(name: string, bytes: Uint8Array<ArrayBuffer>): void {
    const request = ifreq.allocate().set("ifr_name", cString(name))
      .set("ifr_data", addressOf(Deno.UnsafePointer.of(bytes)));
    check("ioctl", libc().ioctl(this.#socket, BigInt(ETHTOOL.SIOCETHTOOL), request.pointer));
  }
}

function mustBe(expected: number, count: number): void {
  if (count !== expected) throw new SystemError("ioctl", constants.errno.EAGAIN);
}

/**
 * Names of all network interfaces of this network namespace, also of those without an address.
 *
 * @throws SystemError
 */
export function interfaceNames(): string[] {
  const list = libc().if_nameindex();
  if (list === null) throw new SystemError("if_nameindex", errno());
  try {
    return [...namesIn(new Deno.UnsafePointerView(list))];
  } finally {
    libc().if_freenameindex(list);
  }
}

/** An entry with index 0 ends the list. */
function* namesIn(list: Deno.UnsafePointerView): Generator<string> {
  for (let at = 0; list.getUint32(at + ifNameindex.offset("if_index")) !== 0;) {
    const name = list.getPointer(at + ifNameindex.offset("if_name"))!;
    yield Deno.UnsafePointerView.getCString(name);
    at += ifNameindex.size;
  }
}

/** The first strings of a set, as ETHTOOL_GSTRINGS writes them. */
export function decodeStrings(bytes: Uint8Array, count: number): string[] {
  const length = ETHTOOL.ETH_GSTRING_LEN;
  return Array.from(
    { length: count },
    (_, index) => textOf(bytes.subarray(index * length, (index + 1) * length)),
  );
}

/**
 * States of features, as ETHTOOL_GFEATURES writes them: 32 in a block, the first in the lowest bit.
 *
 * @param names a name for each bit; a bit in between may have none
 */
export function decodeFeatures(
  names: readonly string[],
  blocks: Uint8Array<ArrayBuffer>,
): Map<string, FeatureState> {
  const states = names.map((name, index): [string, FeatureState] => {
    const at = Math.floor(index / BLOCK_FEATURES) * ethtoolGetFeaturesBlock.size;
    const block = ethtoolGetFeaturesBlock.over(blocks, at);
    const has = (field: keyof typeof ethtoolGetFeaturesBlock.fields) =>
      (block.get(field) >>> index % BLOCK_FEATURES & 1) === 1;
    return [name, {
      on: has("active"),
      changeable: has("available") && !has("never_changed"),
      requested: has("requested"),
    }];
  });
  return new Map(states.filter(([name]) => name !== ""));
}

/** Counters, as ETHTOOL_GSTATS writes them. */
export function decodeStatistics(
  names: readonly string[],
  values: Uint8Array,
): Map<string, number> {
  const view = new DataView(values.buffer, values.byteOffset);
  const size = BigUint64Array.BYTES_PER_ELEMENT;
  return new Map(
    names.map((name, index) => [name, Number(view.getBigUint64(index * size, true))]),
  );
}
