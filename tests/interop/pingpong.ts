/** Plays the other end of ibv_rc_pingpong (rdma-core): ibv_rc_pingpong(1). */
import { assertEquals } from "@std/assert";
import { formatGid, parseGid, type PathMtu } from "../../lib/rdma/address.ts";
import { assertSameBytes, randomize } from "./bytes.ts";
import type { Endpoint, LocalPort, QueuePairNumbers } from "./endpoint.ts";
import type { PlainExchange } from "./plain_exchange.ts";

/** One run of ibv_rc_pingpong. */
export interface Pingpong {
  /** Bytes of a message. */
  readonly size: number;
  /** Messages each way. */
  readonly iterations: number;
  /** Both ends must be told the same. */
  readonly pathMtu: PathMtu;
}

/** LID, QPN, PSN and GID in hexadecimal digits, and a zero byte. */
const NUMBERS_LENGTH = "0000:000000:000000:".length + 32 + 1;

const DONE = "done";

/** Slots of the endpoint. */
const RECEIVE = 0;
const SEND = 1;
const SLOTS = 2;

/** Meets the program that was started as a client. */
export async function servePingpong(
  port: LocalPort,
  exchange: PlainExchange,
  pingpong: Pingpong,
): Promise<void> {
  using end = port.open({ size: pingpong.size, slots: SLOTS });
  end.postReceive(RECEIVE);
  end.connect(parseNumbers(await exchange.readText(NUMBERS_LENGTH)), pingpong.pathMtu);
  await exchange.writeText(formatNumbers(end));
  assertEquals(await exchange.readText(DONE.length + 1), DONE);
  await play(end, pingpong, false);
}

/** Meets the program that was started as a server. */
export async function callPingpong(
  port: LocalPort,
  exchange: PlainExchange,
  pingpong: Pingpong,
): Promise<void> {
  using end = port.open({ size: pingpong.size, slots: SLOTS });
  end.postReceive(RECEIVE);
  await exchange.writeText(formatNumbers(end));
  end.connect(parseNumbers(await exchange.readText(NUMBERS_LENGTH)), pingpong.pathMtu);
  await exchange.writeText(DONE);
  await play(end, pingpong, true);
}

/**
 * Sends and receives in turn. The program receives into the buffer that it sends from: it answers
 * with what it was sent, so each message shows that the one before arrived as it was sent.
 */
async function play(end: Endpoint, { iterations }: Pingpong, first: boolean): Promise<void> {
  const sent = end.slot(SEND);
  let sends = 0;
  let receives = 0;
  let outstanding = 0;
  const send = () => {
    randomize(sent);
    end.postSend(SEND);
    sends += 1;
    outstanding += 1;
  };
  if (first) send();
  while (receives < iterations || outstanding > 0) {
    for (const { isReceive, byteLength } of await end.completions()) {
      if (!isReceive) {
        outstanding -= 1;
        continue;
      }
      assertEquals(byteLength, sent.length);
      if (sends > 0) assertSameBytes(end.slot(RECEIVE), sent, `message ${receives}`);
      receives += 1;
      if (receives < iterations) end.postReceive(RECEIVE);
      if (sends < iterations) send();
    }
  }
}

function formatNumbers({ qpn, psn, gid }: QueuePairNumbers): string {
  const digits = (value: number) => value.toString(16).padStart(6, "0");
  return `0000:${digits(qpn)}:${digits(psn)}:${parseGid(gid).toHex()}`;
}

function parseNumbers(text: string): QueuePairNumbers {
  const [, qpn = "", psn = "", gid = ""] = text.split(":");
  return {
    qpn: parseInt(qpn, 16),
    psn: parseInt(psn, 16),
    gid: formatGid(Uint8Array.fromHex(gid)),
  };
}
