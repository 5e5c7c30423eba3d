import { assertEquals } from "@std/assert";
import { libc } from "../../../ffi/libc.ts";
import type { WcStatusName } from "../../../ffi/libibverbs.ts";
import { Packet } from "../../../lib/rdma/roce/headers.ts";
import { PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { AttackedEnd, RECEIVES } from "./attacked_end.ts";
import { Forger, type Forgery, plain } from "./forged_packet.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const {
  SEND_FIRST,
  SEND_ONLY,
  WRITE_FIRST,
  WRITE_MIDDLE,
  WRITE_LAST,
  WRITE_ONLY,
  READ_REQUEST,
  READ_RESPONSE_FIRST,
  READ_RESPONSE_ONLY,
  ACKNOWLEDGE,
  COMPARE_SWAP,
  FETCH_ADD,
} = PacketOpcode;

/** Regions that a packet may name instead of that of the peer: one without remote rights, another domain's. */
const LOCAL_ONLY = 1;
const FOREIGN = 2;
/** Bytes of the granted region. */
const GRANTED_BYTES = 1000;

type Hostile = Partial<Forgery>;

const ACK = 0x1f;
const RNR_NAK = 0x20 | 12;
const SEQUENCE = 0x60;
const INVALID = 0x61;
const ACCESS = 0x62;

/** Requests, and the syndrome of the answer to the last. */
const requests: Record<string, readonly [readonly Hostile[], number]> = {
  "a WRITE up to the region's last byte": [
    [{ opcode: WRITE_ONLY, offset: GRANTED_BYTES - 8 }],
    ACK,
  ],
  "a WRITE one byte beyond the region": [
    [{ opcode: WRITE_ONLY, offset: GRANTED_BYTES - 7 }],
    ACCESS,
  ],
  "a WRITE one byte before the region": [[{ opcode: WRITE_ONLY, offset: -1 }], ACCESS],
  "a WRITE without bytes to anywhere": [
    [{ opcode: WRITE_ONLY, payloadBytes: 0, offset: -4000, region: FOREIGN }],
    ACK,
  ],
  "a WRITE to a region without remote rights": [
    [{ opcode: WRITE_ONLY, region: LOCAL_ONLY }],
    ACCESS,
  ],
  "a WRITE to a region of another protection domain": [
    [{ opcode: WRITE_ONLY, region: FOREIGN }],
    ACCESS,
  ],
  "a WRITE with the key of another region": [[{ opcode: WRITE_ONLY, key: LOCAL_ONLY }], ACCESS],
  "a WRITE of which the first packet has more bytes than the message": [
    [{ opcode: WRITE_FIRST, payloadBytes: 256, dmaLength: 100, offset: 900 }],
    INVALID,
  ],
  "a WRITE of which a middle packet has more bytes than the message": [
    [
      { opcode: WRITE_FIRST, payloadBytes: 256, dmaLength: 300 },
      { opcode: WRITE_MIDDLE, payloadBytes: 256 },
    ],
    INVALID,
  ],
  "a WRITE of which the last packet has fewer bytes than are left": [
    [
      { opcode: WRITE_FIRST, payloadBytes: 256, dmaLength: 300 },
      { opcode: WRITE_LAST, payloadBytes: 40 },
    ],
    INVALID,
  ],
  "a middle packet without a first": [[{ opcode: WRITE_MIDDLE, payloadBytes: 256 }], INVALID],
  "a SEND in the middle of a WRITE": [
    [{ opcode: WRITE_FIRST, payloadBytes: 256, dmaLength: 600 }, { opcode: SEND_ONLY }],
    INVALID,
  ],
  "a first packet that is not full": [
    [{ opcode: WRITE_FIRST, payloadBytes: 252, dmaLength: 600 }],
    INVALID,
  ],
  "an only packet longer than the path MTU": [
    [{ opcode: WRITE_ONLY, payloadBytes: 257 }],
    INVALID,
  ],
  "a SEND longer than the receive": [[{ opcode: SEND_ONLY, payloadBytes: 204 }], INVALID],
  "a SEND for which no receive is left": [
    [...Array<Hostile>(RECEIVES).fill({ opcode: SEND_ONLY }), { opcode: SEND_ONLY }],
    RNR_NAK,
  ],
  "a SEND after one that is missing": [[{ opcode: SEND_ONLY, ahead: 1 }], SEQUENCE],
  "a SEND that came before": [[{ opcode: SEND_ONLY }, { opcode: SEND_FIRST, ahead: -1 }], ACK],
  "a READ one byte beyond the region": [
    [{ opcode: READ_REQUEST, dmaLength: GRANTED_BYTES + 1 }],
    ACCESS,
  ],
  "a READ of 2 GiB": [[{ opcode: READ_REQUEST, dmaLength: 2 ** 31 }], ACCESS],
  "a READ of more than 2 GiB": [[{ opcode: READ_REQUEST, dmaLength: 2 ** 31 + 1 }], INVALID],
  "a READ of a region without remote rights": [
    [{ opcode: READ_REQUEST, dmaLength: 8, region: LOCAL_ONLY }],
    ACCESS,
  ],
  "an atomic beyond the region": [[{ opcode: FETCH_ADD, offset: GRANTED_BYTES }], ACCESS],
  "an atomic on a region of another protection domain": [
    [{ opcode: COMPARE_SWAP, region: FOREIGN }],
    ACCESS,
  ],
  "an atomic that is not aligned": [[{ opcode: COMPARE_SWAP, offset: 4 }], INVALID],
};

for (const [what, [packets, syndrome]] of Object.entries(requests)) {
  Deno.test(`${what} is answered with ${nameOf(syndrome)}, and nothing else is touched`, () => {
    using attacked = new AttackedEnd("IPv6");
    for (const packet of packets) send(attacked, packet);
    assertEquals(lastSyndrome(attacked), syndrome);
    const isFatal = syndrome === INVALID || syndrome === ACCESS;
    assertEquals(attacked.end.queuePair.query().state, isFatal ? "ERR" : "RTS");
    attacked.checkMemory();
    attacked.checkNothingTold();
  });
}

/** Answers, and how the READ that awaits one ends; undefined if it goes on. */
const answers: Record<string, readonly [Hostile, WcStatusName | undefined]> = {
  "a READ response with fewer bytes than were asked for": [
    { opcode: READ_RESPONSE_FIRST, payloadBytes: 252 },
    "IBV_WC_BAD_RESP_ERR",
  ],
  "a READ response with more bytes than were asked for": [
    { opcode: READ_RESPONSE_ONLY, payloadBytes: 700 },
    "IBV_WC_BAD_RESP_ERR",
  ],
  "a NAK for an invalid request": [
    { opcode: ACKNOWLEDGE, syndrome: INVALID },
    "IBV_WC_REM_INV_REQ_ERR",
  ],
  "a NAK for an access error": [{ opcode: ACKNOWLEDGE, syndrome: ACCESS }, "IBV_WC_REM_ACCESS_ERR"],
  "a NAK for an operational error": [
    { opcode: ACKNOWLEDGE, syndrome: 0x63 },
    "IBV_WC_REM_OP_ERR",
  ],
  "a NAK of a code that there is not": [{ opcode: ACKNOWLEDGE, syndrome: 0x7f }, undefined],
  "an acknowledgement of what was never sent": [{ opcode: ACKNOWLEDGE, ahead: 1000 }, undefined],
  "an acknowledgement of what was done before": [{ opcode: ACKNOWLEDGE, ahead: -1 }, undefined],
};

for (const [what, [packet, status]] of Object.entries(answers)) {
  Deno.test(`${what} ${status ? `ends the READ with ${status}` : "changes nothing"}`, () => {
    using attacked = new AttackedEnd("IPv6");
    const packetsBefore = attacked.sent.length;
    send(attacked, packet);
    const { sent, queuePair } = attacked.end;
    assertEquals(sent[0]?.status, status);
    assertEquals(attacked.sent.length, packetsBefore);
    assertEquals(queuePair.query().state, status ? "ERR" : "RTS");
    attacked.checkMemory();
  });
}

function send(attacked: AttackedEnd, packet: Hostile): void {
  const { peer, end: { host: { port: { local } } } } = attacked;
  using forger = new Forger(peer, local);
  attacked.hit(forger.make({ ...plain, ...packet }, attacked.knowledge));
}

/** The syndrome of the last acknowledgement that was sent. */
function lastSyndrome({ sent }: AttackedEnd): number | undefined {
  const packet = new Packet();
  for (const bytes of sent.toReversed()) {
    packet.decode(new DataView(bytes.buffer), 0, bytes.length);
    if (packet.opcode === ACKNOWLEDGE) return packet.syndrome;
  }
  return undefined;
}

function nameOf(syndrome: number): string {
  const names: Record<number, string> = {
    [ACK]: "an acknowledgement",
    [RNR_NAK]: "an RNR NAK",
    [SEQUENCE]: "a NAK for a sequence error",
    [INVALID]: "a NAK for an invalid request",
    [ACCESS]: "a NAK for an access error",
  };
  return names[syndrome]!;
}
