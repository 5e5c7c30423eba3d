/**
 * The chain that audit lines form.
 *
 * A line is one JSON object. Its last member, `mac`, is HMAC-SHA-256 over the MAC of the line before
 * (32 zero bytes before the first) and all bytes of the line in front of `,"mac":`, so nothing has
 * to be written out again to be checked. `sequence` counts the lines of a chain from 0. The first
 * line (`begin`) bears the version and the chain's random name; a file that goes on where another
 * was moved away begins with `continue`, which says after which MAC.
 *
 * Whoever does not have the key can change, remove, insert or swap no line unseen. Lines cut off at
 * the end leave a shorter chain that is whole: the head, which is kept elsewhere, shows that.
 */
import { encodeBase64Url } from "@std/encoding/base64url";
import { Buffer } from "node:buffer";
import { createHmac, timingSafeEqual } from "node:crypto";
import * as v from "valibot";

/** Of the format. */
const VERSION = 1;

/** Bytes of a MAC, and of the key. */
export const MAC_BYTES = 32;

/** What stands before the first line in place of a MAC. */
const NO_MAC = Buffer.alloc(MAC_BYTES);

/** `,"mac":"…"}` at the end of a line. */
const SUFFIX_BYTES = 8 + 2 * MAC_BYTES + 2;

const suffixPattern = /^,"mac":"([0-9a-f]{64})"\}$/;
const sequencePattern = /^\{"sequence":(0|[1-9]\d{0,14}),/;

const hexMac = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const sequence = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const chainName = v.pipe(v.string(), v.regex(/^[\w-]{22}$/));

/** The last line of a chain. */
export const chainHead = v.object({ chain: chainName, sequence, mac: hexMac });
export type ChainHead = v.InferOutput<typeof chainHead>;

const header = v.variant("event", [
  v.object({ event: v.literal("begin"), version: v.literal(VERSION), chain: chainName }),
  v.object({
    event: v.literal("continue"),
    version: v.literal(VERSION),
    chain: chainName,
    previous: hexMac,
  }),
]);

/** What the first line of a file says; undefined where it is no first line. */
export function headerOf({ text }: AuditLine): v.InferOutput<typeof header> | undefined {
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), header), text);
  return parsed.success ? parsed.output : undefined;
}

/** A line as it was read, not yet checked. */
export class AuditLine {
  private constructor(
    private readonly bytes: Buffer,
    readonly sequence: number,
    /** Hexadecimal. */
    readonly mac: string,
  ) {}

  /** Undefined where the bytes, without line feed, are no line of this format. */
  static parse(bytes: Uint8Array): AuditLine | undefined {
    const line = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const [, number] = sequencePattern.exec(line.toString("latin1", 0, 32)) ?? [];
    const suffix = line.toString("latin1", Math.max(0, line.length - SUFFIX_BYTES));
    const [, mac] = suffixPattern.exec(suffix) ?? [];
    if (number === undefined || mac === undefined) return undefined;
    return new AuditLine(line, Number(number), mac);
  }

  get text(): string {
    return this.bytes.toString("utf8");
  }

  /** @param previous MAC of the line before; the chain's beginning without */
  follows(key: Uint8Array, previous: string | undefined): boolean {
    const before = previous === undefined ? NO_MAC : Buffer.from(previous, "hex");
    const body = this.bytes.subarray(0, -SUFFIX_BYTES);
    return timingSafeEqual(macOf(key, before, body), Buffer.from(this.mac, "hex"));
  }
}

/** Makes the lines of a chain. */
export class AuditChain {
  #sequence: number;
  #mac: Buffer;

  private constructor(
    private readonly key: Uint8Array,
    private readonly chain: string,
    last: ChainHead | undefined,
  ) {
    this.#sequence = last?.sequence ?? -1;
    this.#mac = last ? Buffer.from(last.mac, "hex") : NO_MAC;
  }

  /** A new chain: its first line is to be a {@linkcode AuditChain.header}. */
  static begin(key: Uint8Array): AuditChain {
    return new AuditChain(
      key,
      encodeBase64Url(crypto.getRandomValues(new Uint8Array(16))),
      undefined,
    );
  }

  /** Goes on after this line. */
  static after(key: Uint8Array, last: ChainHead): AuditChain {
    return new AuditChain(key, last.chain, last);
  }

  get head(): ChainHead {
    return { chain: this.chain, sequence: this.#sequence, mac: this.#mac.toString("hex") };
  }

  /** The first line of a file. */
  header(time: string): Buffer {
    const fresh = this.#sequence < 0;
    const { chain, mac: previous } = this.head;
    const facts = fresh ? { event: "begin" } : { event: "continue", previous };
    return this.line(JSON.stringify({ time, version: VERSION, chain, ...facts }).slice(1, -1));
  }

  /**
   * The next line, with its line feed.
   *
   * @param members of the JSON object, as text, at least one; neither `sequence` nor `mac`
   */
  line(members: string): Buffer {
    this.#sequence += 1;
    const body = Buffer.from(`{"sequence":${this.#sequence},${members}`);
    this.#mac = macOf(this.key, this.#mac, body);
    return Buffer.concat([body, Buffer.from(`,"mac":"${this.#mac.toString("hex")}"}\n`)]);
  }
}

function macOf(key: Uint8Array, previous: Uint8Array, body: Uint8Array): Buffer {
  return createHmac("sha256", key).update(previous).update(body).digest();
}
