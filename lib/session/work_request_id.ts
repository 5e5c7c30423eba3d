/** Who a completion is for: the upper 8 bits of a wr_id; the lower 24 are that one's own number. */
const RECEIVE = 1 << 24;
const SEND = 2 << 24;
const TRANSFER = 3 << 24;
const OWNER = 0xff << 24;

export const WorkRequestId = {
  receive: (slot: number) => RECEIVE | slot,
  send: (slot: number) => SEND | slot,
  transfer: (slot: number) => TRANSFER | slot,
  isReceive: (id: number) => (id & OWNER) === RECEIVE,
  isSend: (id: number) => (id & OWNER) === SEND,
  slot: (id: number) => id & ~OWNER,
} as const;
