/** A queue pair that is attacked with packets, and what no packet may do to it. */
import { assert } from "@std/assert";
import { WC_STATUS_NAMES } from "../../../ffi/libibverbs.ts";
import { Memory } from "../../../ffi/memory.ts";
import type { MemoryRegion } from "../../../lib/rdma/memory_region.ts";
import { Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import { ICRC_BYTES } from "../../../lib/rdma/roce/opcode.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { type Knowledge, PATH_MTU } from "./forged_packet.ts";
import { type IpVersion, SimulatedEnd, SimulatedHost } from "./simulated_end.ts";
import { NO_FAULTS, SimulatedNetwork } from "./simulated_network.ts";

const PEER_QPN = 17;
const PEER_PSN = 0xff_fff8;
const PSN = 5;

/** The part of its memory that the peer may use. */
const GRANTED = [4096, 1000] as const;
const MEMORY_BYTES = 12_288;

/** Receives and answers, each this long and as far from the next. */
const LOCAL_STEP = 1024;
const RECEIVE_BYTES = 200;
export const RECEIVES = 4;
const READ_BYTES = 700;
const SENDS = 4;
const LOCAL_BYTES = LOCAL_STEP * (RECEIVES + SENDS);

/** Packets that one request of the peer's can ask for, and that go out again when one is called missing. */
export const MOST_ANSWERS = Math.ceil(GRANTED[1] / PATH_MTU) + 2 * SENDS + 2;

/** Bytes that may be changed, and those that may neither be changed nor told. */
const FILL = 0x3c;
const SECRET = 0x99;
/** So many of them in a row are no chance. */
const SECRET_RUN = Uint8Array.of(SECRET, SECRET, SECRET, SECRET);

/** A host whose one queue pair is in use, with receives posted and requests under way. */
export class AttackedEnd implements Disposable {
  readonly network = new SimulatedNetwork(NO_FAULTS, 1);
  readonly peer: Endpoint;
  readonly stranger: Endpoint;
  readonly end: SimulatedEnd;
  /** Packets that it sent, from the BTH on. */
  readonly sent: Uint8Array<ArrayBuffer>[] = [];
  /** Work requests that it posted. */
  posted = 0;
  readonly #resources = new DisposableStack();
  /** In its own protection domain, for itself alone. */
  readonly #own: MemoryRegion;
  readonly #ownMemory: Memory;
  readonly #local: MemoryRegion;
  readonly #localMemory: Memory;
  /** Of another queue pair, with all rights, in a protection domain of its own. */
  readonly #foreign: SimulatedEnd;

  constructor(version: IpVersion) {
    const host = this.#resources.use(new SimulatedHost(this.network, 1, version));
    const { address, port } = host.port.local;
    const neighbour = (number: number) =>
      new Endpoint(Uint8Array.of(...address.subarray(0, -1), number), port);
    this.peer = neighbour(2);
    this.stranger = neighbour(3);
    this.end = this.#resources.use(new SimulatedEnd(host, MEMORY_BYTES, PSN, GRANTED));
    this.#foreign = this.#resources.use(new SimulatedEnd(host, MEMORY_BYTES, PSN));
    this.#ownMemory = this.#resources.use(new Memory(MEMORY_BYTES));
    this.#localMemory = this.#resources.use(new Memory(LOCAL_BYTES));
    const register = (memory: Memory) =>
      this.#resources.use(this.end.protectionDomain.registerMemory(memory, ["LOCAL_WRITE"]));
    this.#own = register(this.#ownMemory);
    this.#local = register(this.#localMemory);
    for (const { bytes } of [this.end.memory, this.#foreign.memory, this.#ownMemory]) {
      bytes.fill(SECRET);
    }
    this.end.memory.bytes.fill(FILL, GRANTED[0], GRANTED[0] + GRANTED[1]);
    this.#localMemory.bytes.fill(FILL);
    this.network.onPacket = (bytes, to) => {
      if (to !== host.port.local) this.sent.push(bytes);
    };
    this.begin();
  }

  /** What the forger of a packet may know now. */
  get knowledge(): Knowledge {
    const { queuePair, region } = this.end;
    return {
      qpn: queuePair.qpn,
      requestPsn: queuePair.query().rqPsn,
      acknowledgedPsn: PSN,
      regions: [region, this.#own, this.#foreign.region, this.#local],
    };
  }

  /** Connects the queue pair to its peer, and puts its queues to use. */
  begin(): void {
    const { queuePair } = this.end;
    if (queuePair.state === "ERR") queuePair.modify({ state: "RESET" });
    this.end.connect({ address: this.peer, qpn: PEER_QPN, psn: PEER_PSN }, PATH_MTU);
    this.#postReceives();
    this.#postSends();
    this.posted += RECEIVES + SENDS;
  }

  /** Sends it a packet, and lets it do what it does. */
  hit(bytes: Uint8Array<ArrayBuffer>, from = this.peer): void {
    const { network, end: { host: { port } } } = this;
    // What was sent before is not for this peer either.
    port.transmitBytes.fill(SECRET);
    network.carry(from, port.local, bytes);
    network.run([port], () => this.end.collect(), network.now + 2 * NO_FAULTS.latency);
  }

  /** Nothing was changed but what the peer may write, receives, and places for answers. */
  checkMemory(): void {
    const [start, length] = GRANTED;
    const { bytes } = this.end.memory;
    assertAll(SECRET, bytes.subarray(0, start), "before the region");
    assertAll(SECRET, bytes.subarray(start + length), "after the region");
    assertAll(SECRET, this.#foreign.memory.bytes, "in another protection domain");
    assertAll(SECRET, this.#ownMemory.bytes, "in a region without remote rights");
    for (let place = 0; place < RECEIVES + SENDS; place++) {
      const used = place < RECEIVES ? RECEIVE_BYTES : READ_BYTES;
      const [from, to] = [place * LOCAL_STEP + used, (place + 1) * LOCAL_STEP];
      assertAll(FILL, this.#localMemory.bytes.subarray(from, to), `after buffer ${place}`);
    }
  }

  /** Not even what the peer may write was changed. */
  checkNothingWritten(): void {
    this.checkMemory();
    const [start, length] = GRANTED;
    assertAll(FILL, this.end.memory.bytes.subarray(start, start + length), "in the region");
    assertAll(FILL, this.#localMemory.bytes, "in a local buffer");
  }

  /** No packet that was sent has anything of what the peer may not read. */
  checkNothingTold(): void {
    const secret = SECRET_RUN.toHex();
    for (const bytes of this.sent) {
      assert(!bytes.toHex().includes(secret), bytes.toHex());
      const padding = (bytes[1]! >> 4) & 3;
      assertAll(0, bytes.subarray(bytes.length - ICRC_BYTES - padding, -ICRC_BYTES), "of padding");
    }
  }

  /** Each request ended once at most, with a status that there is. */
  checkCompletions(): void {
    const { sent, received } = this.end;
    assert(sent.length + received.length <= this.posted);
    for (const { status } of [...sent, ...received]) assert(WC_STATUS_NAMES.includes(status));
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }

  #postReceives(): void {
    const { receives, queuePair } = this.end;
    const { address, lkey } = this.#local;
    for (let place = 0; place < RECEIVES; place++) {
      receives.prepare(place, place)
        .buffer(place, address + place * LOCAL_STEP, RECEIVE_BYTES, lkey);
    }
    queuePair.postReceive(receives, 0, RECEIVES);
  }

  /** A READ, a SEND, an atomic and a WRITE, which wait for their answers. */
  #postSends(): void {
    const { sends, queuePair, region } = this.end;
    const { address, lkey } = this.#local;
    const requests = [
      [Opcode.READ, READ_BYTES],
      [Opcode.SEND, 10],
      [Opcode.FETCH_AND_ADD, 8],
      [Opcode.WRITE, 400],
    ] as const;
    requests.forEach(([operation, bytes], index) => {
      const place = address + (RECEIVES + index) * LOCAL_STEP;
      sends.prepare(index, index, operation, SendFlag.SIGNALED);
      if (operation === Opcode.FETCH_AND_ADD) sends.atomic(index, region.address, 1, 1n);
      else sends.remote(index, region.address, 1);
      sends.buffer(index, place, bytes, lkey);
    });
    queuePair.postSend(sends, 0, SENDS);
  }
}

function assertAll(value: number, bytes: Uint8Array, where: string): void {
  const changed = bytes.findIndex((byte) => byte !== value);
  assert(changed < 0, `byte ${changed} ${where} is ${bytes[changed]}`);
}
