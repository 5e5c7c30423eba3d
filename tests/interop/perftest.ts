/**
 * Plays the other end of perftest's bandwidth programs (version 4.5, as its exchange runs between
 * two of them): one queue pair, one direction, a number of iterations.
 */
import { assert, assertEquals } from "@std/assert";
import {
  formatGid,
  parseGid,
  type PathMtu,
  pathMtuFromEnum,
  pathMtuToEnum,
} from "../../lib/rdma/address.ts";
import { assertSameBytes, randomize } from "./bytes.ts";
import type { Endpoint, LocalPort, QueuePairNumbers } from "./endpoint.ts";
import type { PlainExchange } from "./plain_exchange.ts";

/** Reads the program's memory, to compare with what went to and fro. */
export type ReadMemory = (address: number, length: number) => Uint8Array;

type Role = "server" | "client";

/** One run of ib_send_bw, ib_write_bw or ib_read_bw: the client sends, writes or reads. */
export interface Perftest {
  readonly operation: "SEND" | "WRITE" | "READ";
  /** Bytes of a message. */
  readonly size: number;
  readonly iterations: number;
  readonly readMemory: ReadMemory;
}

/** Of the exchange, not of the package. */
const VERSION = "6.06";
const VERSION_LENGTH = 16;

/** The programs agree on the larger of both sides' values, which lay their memory out. */
const CYCLE_BUFFER = 4096;
const CACHE_LINE = 64;

/** LID, READs outstanding, QPN, PSN, rkey, address, GID and SRQ number in hexadecimal digits. */
const KEYS_LENGTH = 108;

/** Work requests of ours that are outstanding at most: fewer than the programs', which meets RNR NAKs. */
const SLOTS = 16;

/** What the programs tell each other before their queue pairs are connected, and again to wait for each other. */
interface Keys extends QueuePairNumbers {
  readonly readsOutstanding: number;
  readonly rkey: number;
  /** Of the memory that the peer reads and writes. */
  readonly address: number;
}

/** Meets the program that was started as a client. @throws Error when bytes are not as they were sent */
export async function servePerftest(
  port: LocalPort,
  exchange: PlainExchange,
  test: Perftest,
): Promise<void> {
  // Without messages of our own the whole memory is the program's to write and read.
  const passive = { size: halfOf(test.size), slots: 1 };
  const active = { size: test.size, slots: SLOTS };
  using end = port.open(test.operation === "SEND" ? active : passive);
  await new Conversation("server", end, exchange, test).run();
}

/** Meets the program that was started as a server. @throws Error when bytes are not as they were sent */
export async function callPerftest(
  port: LocalPort,
  exchange: PlainExchange,
  test: Perftest,
): Promise<void> {
  using end = port.open({ size: test.size, slots: SLOTS });
  await new Conversation("client", end, exchange, test).run();
}

/** What one side does between the exchanges, and what must be so when the client has finished. */
interface Part {
  work?(end: Endpoint, remote: Keys, test: Perftest): Promise<void>;
  check?(end: Endpoint, remote: Keys, test: Perftest): void;
}

const parts: Readonly<Record<Role, Readonly<Record<Perftest["operation"], Part>>>> = {
  server: {
    SEND: { work: receiveMessages },
    WRITE: { check: assertWritten },
    READ: { check: assertRead },
  },
  client: {
    SEND: { work: sendMessages, check: assertReceived },
    WRITE: { work: writeMessages, check: assertWrittenThere },
    READ: { work: readMessages },
  },
};

/** What is said in TCP, in turn: the client begins. */
class Conversation {
  constructor(
    private readonly role: Role,
    private readonly end: Endpoint,
    private readonly exchange: PlainExchange,
    private readonly test: Perftest,
  ) {}

  async run(): Promise<void> {
    const { role, end, exchange, test } = this;
    const { work, check } = parts[role][test.operation];
    if (role === "server" && test.operation === "READ") randomize(end.slot(0));
    if (role === "server" && test.operation === "SEND") postReceives(end, test.iterations);
    const pathMtu = await this.#agree();
    const remote = await this.#swapKeys();
    end.connect(remote, pathMtu, remote.readsOutstanding);
    // That both are connected, and, for SEND, have posted receives.
    await this.#swapKeys();
    await this.#swapKeys();
    if (test.operation === "SEND") await this.#swapKeys();
    const start = performance.now();
    await work?.(end, remote, test);
    const seconds = (performance.now() - start) / 1000;
    await this.#swapKeys(() => check?.(end, remote, test));
    if (test.operation !== "SEND") {
      await this.#swapReports(seconds);
      await this.#swapKeys();
    }
    await exchange.writeText("done");
  }

  /** Version and memory layout, which must be the program's, and the path MTU: the smaller of the two. */
  async #agree(): Promise<PathMtu> {
    assertEquals(await this.#swapText(VERSION, VERSION_LENGTH), VERSION);
    for (const value of [CYCLE_BUFFER, CACHE_LINE]) {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, value);
      assertEquals(await this.#swap(bytes), bytes);
    }
    const { activeMtu } = this.end.port;
    const theirs = Number(await this.#swapText(String(pathMtuToEnum(activeMtu)), 2));
    return Math.min(activeMtu, pathMtuFromEnum(theirs)) as PathMtu;
  }

  async #swapKeys(between?: () => void): Promise<Keys> {
    const { qpn, psn, gid, readDepth, region } = this.end;
    const readsOutstanding = this.test.operation === "READ" ? readDepth : 1;
    const { rkey, address } = region;
    const mine = formatKeys({ qpn, psn, gid, readsOutstanding, rkey, address });
    return parseKeys(await this.#swapText(mine, KEYS_LENGTH, between));
  }

  /** Of the client's the server prints what it says; the server's says nothing. */
  async #swapReports(seconds: number): Promise<void> {
    const { size, iterations } = this.test;
    const rate = iterations / seconds;
    const bandwidth = size * rate / 2 ** 20;
    const fields: ((view: DataView) => void)[] = [
      (view) => view.setBigUint64(0, BigInt(size)),
      (view) => view.setBigUint64(0, BigInt(iterations)),
      (view) => view.setFloat64(0, bandwidth),
      (view) => view.setFloat64(0, bandwidth),
      (view) => view.setFloat64(0, rate / 1e6),
    ];
    for (const write of fields) {
      const bytes = new Uint8Array(8);
      if (this.role === "client") write(new DataView(bytes.buffer));
      await this.#swap(bytes);
    }
  }

  async #swapText(mine: string, length: number, between?: () => void): Promise<string> {
    const bytes = new Uint8Array(length);
    new TextEncoder().encodeInto(mine, bytes);
    return new TextDecoder().decode(await this.#swap(bytes, between)).split("\0")[0]!;
  }

  /** @param between what to do when the client has come this far, and the server waits or soon will */
  async #swap(mine: Uint8Array, between?: () => void): Promise<Uint8Array> {
    const { exchange } = this;
    if (this.role === "client") {
      between?.();
      await exchange.write(mine);
      return await exchange.read(mine.length);
    }
    const theirs = await exchange.read(mine.length);
    between?.();
    await exchange.write(mine);
    return theirs;
  }
}

function postReceives(end: Endpoint, iterations: number): void {
  for (let slot = 0; slot < Math.min(SLOTS, iterations); slot++) end.postReceive(slot);
}

async function receiveMessages(
  end: Endpoint,
  remote: Keys,
  { size, iterations, readMemory }: Perftest,
): Promise<void> {
  const source = readMemory(firstHalf(remote, size), halfOf(size));
  const offsets = messageOffsets(size);
  for (let received = 0; received < iterations;) {
    for (const { slot, byteLength } of await end.completions()) {
      assertEquals(byteLength, size);
      const offset = offsets[received % offsets.length]!;
      const sent = source.subarray(offset, offset + size);
      assertSameBytes(end.slot(slot), sent, `message ${received}`);
      received += 1;
      if (received + SLOTS <= iterations) end.postReceive(slot);
    }
  }
}

function assertWritten(
  end: Endpoint,
  remote: Keys,
  { size, iterations, readMemory }: Perftest,
): void {
  const source = readMemory(firstHalf(remote, size), halfOf(size));
  assertSameMessages(end.slot(0), source, size, iterations);
}

function assertRead(end: Endpoint, remote: Keys, { size, iterations, readMemory }: Perftest): void {
  const target = readMemory(firstHalf(remote, size), halfOf(size));
  assertSameMessages(target, end.slot(0), size, iterations);
}

/** Asserts that all messages in a half of the memory are as they are in the other end's. */
function assertSameMessages(
  target: Uint8Array,
  source: Uint8Array,
  size: number,
  iterations: number,
): void {
  for (const offset of messageOffsets(size).slice(0, iterations)) {
    const message = [target, source].map((half) => half.subarray(offset, offset + size));
    assertSameBytes(message[0]!, message[1]!, `the message at ${offset}`);
  }
}

async function sendMessages(end: Endpoint, _: Keys, { iterations }: Perftest): Promise<void> {
  await keepPosting(end, iterations, (slot) => {
    randomize(end.slot(slot));
    end.postSend(slot);
  });
}

async function writeMessages(
  end: Endpoint,
  { address, rkey }: Keys,
  { iterations }: Perftest,
): Promise<void> {
  await keepPosting(end, iterations, (slot) => {
    randomize(end.slot(slot));
    end.postWrite(slot, address, rkey);
  });
}

async function readMessages(
  end: Endpoint,
  { address, rkey }: Keys,
  { size, iterations, readMemory }: Perftest,
): Promise<void> {
  const source = readMemory(address, size);
  await keepPosting(
    end,
    iterations,
    (slot) => {
      end.slot(slot).fill(0);
      end.postRead(slot, address, rkey);
    },
    (slot) => assertSameBytes(end.slot(slot), source, "what was read"),
  );
}

/** Has as many work requests outstanding as there are slots, until all iterations are done. */
async function keepPosting(
  end: Endpoint,
  iterations: number,
  post: (slot: number) => void,
  completed?: (slot: number) => void,
): Promise<void> {
  let posted = 0;
  for (; posted < Math.min(SLOTS, iterations); posted++) post(posted);
  for (let done = 0; done < iterations;) {
    for (const { slot } of await end.completions()) {
      completed?.(slot);
      done += 1;
      if (posted < iterations) post(posted++ % SLOTS);
    }
  }
}

/** The program received message by message into the second half of its memory: the last one is looked at. */
function assertReceived(end: Endpoint, remote: Keys, test: Perftest): void {
  const { size, iterations } = test;
  const offsets = messageOffsets(size);
  const offset = offsets[(iterations - 1) % offsets.length]!;
  assertLast(end, firstHalf(remote, size) + halfOf(size) + offset, test);
}

function assertWrittenThere(end: Endpoint, { address }: Keys, test: Perftest): void {
  assertLast(end, address, test);
}

function assertLast(
  end: Endpoint,
  address: number,
  { size, iterations, readMemory }: Perftest,
): void {
  const last = end.slot((iterations - 1) % SLOTS);
  assertSameBytes(readMemory(address, size), last, "the last message in the program's memory");
}

function formatKeys({ readsOutstanding, qpn, psn, rkey, address, gid }: Keys): string {
  const digits = (value: number, count: number) => value.toString(16).padStart(count, "0");
  const octets = [...parseGid(gid)].map((octet) => digits(octet, 2));
  const fields = [
    ...[digits(0, 4), digits(readsOutstanding, 4), digits(qpn, 6), digits(psn, 6)],
    ...[digits(rkey, 8), digits(address, 16), ...octets, digits(0, 8)],
  ];
  return `${fields.join(":")}:`;
}

function parseKeys(text: string): Keys {
  const fields = text.split(":");
  assert(fields.length >= 23, `not the keys of a queue pair with a GID: ${text}`);
  const [, readsOutstanding, qpn, psn, rkey, address, ...octets] = fields
    .map((digits) => parseInt(digits, 16));
  return {
    readsOutstanding: readsOutstanding!,
    qpn: qpn!,
    psn: psn!,
    rkey: rkey!,
    address: address!,
    gid: formatGid(Uint8Array.from(octets.slice(0, 16))),
  };
}

/** Bytes of each half of the program's memory: it sends from and reads into the first, receives into the second. */
function halfOf(size: number): number {
  return roundUp(bytesInHalf(size));
}

function bytesInHalf(size: number): number {
  return Math.max(size, CYCLE_BUFFER);
}

/** Where the first half begins: the address that is told lies so many bytes further, not rounded up. */
function firstHalf({ address }: Keys, size: number): number {
  return address - bytesInHalf(size);
}

/** Where the program's messages stand in a half of its memory, in turn. */
function messageOffsets(size: number): number[] {
  const stride = roundUp(size);
  const count = size <= CYCLE_BUFFER / 2 ? Math.floor(CYCLE_BUFFER / stride) : 1;
  return Array.from({ length: count }, (_, index) => index * stride);
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / CACHE_LINE) * CACHE_LINE;
}
