/** What each opcode of the reliable connected transport carries and does (IBTA volume 1, table 38 and section 9.2). */

/** Opcodes of the RC transport service: the lowest five bits are the operation, the upper three are 0. */
export const PacketOpcode = {
  SEND_FIRST: 0x00,
  SEND_MIDDLE: 0x01,
  SEND_LAST: 0x02,
  SEND_LAST_WITH_IMMEDIATE: 0x03,
  SEND_ONLY: 0x04,
  SEND_ONLY_WITH_IMMEDIATE: 0x05,
  WRITE_FIRST: 0x06,
  WRITE_MIDDLE: 0x07,
  WRITE_LAST: 0x08,
  WRITE_LAST_WITH_IMMEDIATE: 0x09,
  WRITE_ONLY: 0x0a,
  WRITE_ONLY_WITH_IMMEDIATE: 0x0b,
  READ_REQUEST: 0x0c,
  READ_RESPONSE_FIRST: 0x0d,
  READ_RESPONSE_MIDDLE: 0x0e,
  READ_RESPONSE_LAST: 0x0f,
  READ_RESPONSE_ONLY: 0x10,
  ACKNOWLEDGE: 0x11,
  ATOMIC_ACKNOWLEDGE: 0x12,
  COMPARE_SWAP: 0x13,
  FETCH_ADD: 0x14,
} as const;

/** Bytes of the headers. */
export const BTH_BYTES = 12;
export const RETH_BYTES = 16;
export const ATOMIC_ETH_BYTES = 28;
export const AETH_BYTES = 4;
export const ATOMIC_ACK_ETH_BYTES = 8;
export const IMMEDIATE_BYTES = 4;
export const ICRC_BYTES = 4;

/** Bytes of the longest message (IBTA volume 1, section 9.7.2). */
export const MAX_MESSAGE_BYTES = 2 ** 31;

/** Properties of an opcode, as bits. */
export const Trait = {
  /** Goes to the responder; otherwise it is an answer and goes to the requester. */
  REQUEST: 1 << 0,
  SEND: 1 << 1,
  WRITE: 1 << 2,
  READ: 1 << 3,
  ATOMIC: 1 << 4,
  /** First packet of a message. */
  START: 1 << 5,
  /** Last packet of a message. */
  END: 1 << 6,
  /** Headers after the BTH, in this order. */
  RETH: 1 << 7,
  ATOMIC_ETH: 1 << 8,
  AETH: 1 << 9,
  ATOMIC_ACK_ETH: 1 << 10,
  IMMEDIATE: 1 << 11,
  /** A payload may follow. */
  PAYLOAD: 1 << 12,
} as const;

const { REQUEST, SEND, WRITE, READ, ATOMIC, START, END, PAYLOAD } = Trait;
const { RETH, ATOMIC_ETH, AETH, ATOMIC_ACK_ETH, IMMEDIATE } = Trait;

const send = REQUEST | SEND | PAYLOAD;
const write = REQUEST | WRITE | PAYLOAD;
const response = READ | PAYLOAD;

/** Traits by opcode; 0 for those that the transport does not know. */
const traits = new Uint16Array(256);
traits.set([
  send | START,
  send,
  send | END,
  send | END | IMMEDIATE,
  send | START | END,
  send | START | END | IMMEDIATE,
  write | START | RETH,
  write,
  write | END,
  write | END | IMMEDIATE,
  write | START | END | RETH,
  write | START | END | RETH | IMMEDIATE,
  REQUEST | READ | START | END | RETH,
  response | START | AETH,
  response,
  response | END | AETH,
  response | START | END | AETH,
  START | END | AETH,
  ATOMIC | START | END | AETH | ATOMIC_ACK_ETH,
  REQUEST | ATOMIC | START | END | ATOMIC_ETH,
  REQUEST | ATOMIC | START | END | ATOMIC_ETH,
]);

const headerBytes = new Uint8Array(traits.map((bits) =>
  BTH_BYTES +
  (bits & RETH ? RETH_BYTES : 0) +
  (bits & ATOMIC_ETH ? ATOMIC_ETH_BYTES : 0) +
  (bits & AETH ? AETH_BYTES : 0) +
  (bits & ATOMIC_ACK_ETH ? ATOMIC_ACK_ETH_BYTES : 0) +
  (bits & IMMEDIATE ? IMMEDIATE_BYTES : 0)
));

/** The {@linkcode Trait} bits of an opcode; 0 when the transport does not know it. */
export function traitsOf(opcode: number): number {
  return traits[opcode]!;
}

/** Bytes from the BTH to the payload. */
export function headerBytesOf(opcode: number): number {
  return headerBytes[opcode]!;
}
