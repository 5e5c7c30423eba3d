/** The packets of a session, judged by the numbers that its two ends agreed on. */
import { assert, assertEquals } from "@std/assert";
import { decodeBase64Url } from "@std/encoding/base64url";
import { Memory } from "../../../ffi/memory.ts";
import { RECORD_OVERHEAD, SessionSeal } from "../../../lib/security/seal.ts";
import type { Agreement, End } from "./agreement.ts";
import type { RocePacket } from "./capture.ts";

/** Both ways of a session's packets: from, to. */
export function bothWays({ client, server }: Agreement): [End, End][] {
  return [[client, server], [server, client]];
}

/** Whether a packet goes from one side's address to the other side's address and queue pair. */
export function isOnWay(from: End, to: End): (packet: RocePacket) => boolean {
  return ({ source, destination, destinationQpn }) =>
    source === from.address && destination === to.address && destinationQpn === to.numbers.qpn;
}

// Opcodes (IBTA volume 1, section 9.2.1).
const SEND_ONLY = 4;
const READ_REQUEST = 12;
const FIRST_ANSWER = 13;
const LAST_ANSWER = 18;
const UD_SEND_ONLY = 100;

/** READ responses and acknowledgements. */
function isAnswer({ opcode }: RocePacket): boolean {
  return opcode >= FIRST_ANSWER && opcode <= LAST_ANSWER;
}

/** SEND, WRITE, READ requests and atomics. */
export function isRequest(packet: RocePacket): boolean {
  return !isAnswer(packet);
}

/** Management datagrams go to queue pair 1 of a port. */
export function isManagement({ opcode, destinationQpn }: RocePacket): boolean {
  return destinationQpn === 1 && opcode === UD_SEND_ONLY;
}

/** How far a PSN lies after another. */
function distance(from: number, to: number): number {
  return (to - from + 2 ** 24) % 2 ** 24;
}

/**
 * Checks the PSNs of all packets of a session: each way begins with a PROOF that bears the PSN
 * agreed, and goes on by one. Answers bear the PSNs of what they answer.
 */
export function checkPsns(agreement: Agreement, packets: readonly RocePacket[]): void {
  for (const [from, to] of bothWays(agreement)) {
    const requests = packets.filter(isOnWay(from, to)).filter(isRequest);
    const answers = packets.filter(isOnWay(to, from)).filter(isAnswer);
    checkAnswers(answers, from, psnsUsed(requests, from, agreement));
  }
}

/** What a side's first message says; it is one record where the session is sealed. */
function firstMessage(
  { seal, session, client, server }: Agreement,
  from: End,
  payload: Uint8Array,
): Uint8Array {
  if (seal === "off") return payload;
  const [side, to] = from === client ? ["server", server] as const : ["client", client] as const;
  const keys = {
    cipher: seal,
    session: decodeBase64Url(session),
    epoch: 0,
    // They are wiped there.
    own: to.sealKey.slice(),
    peer: from.sealKey.slice(),
  };
  using opening = new SessionSeal(keys, { side, fail: () => {} });
  using messages = opening.channel("messages");
  using record = new Memory(payload.length);
  using message = new Memory(payload.length - RECORD_OVERHEAD);
  record.bytes.set(payload);
  messages.open(record, 0, message.bytes.length, message, 0, 0);
  return message.bytes.slice();
}

/**
 * Checks the requests that one side sent: PROOF with the PSN agreed, then one PSN after the other.
 * What was lost may be sent again, and what was lost before the wire comes later than its followers:
 * where a card does not cut segments, the embedded provider finds out by a message that gets lost.
 *
 * @returns how many PSNs they used; a READ uses those of its responses too
 */
function psnsUsed(requests: readonly RocePacket[], from: End, agreement: Agreement): number {
  const [proof] = requests;
  assert(proof, `nothing was sent by queue pair ${from.numbers.qpn} of ${from.address}`);
  assertEquals([proof.psn, proof.opcode], [from.numbers.psn, SEND_ONLY]);
  const message = firstMessage(agreement, from, proof.payload);
  assertEquals(message.slice(-from.proof.length), from.proof);
  let used = 0;
  const inOrder = requests.map((request) => ({
    ...request,
    at: distance(from.numbers.psn, request.psn),
  })).sort((one, other) => one.at - other.at);
  for (const { opcode, psn, dmaLength, at } of inOrder) {
    assert(
      at <= used,
      `PSN ${psn} of queue pair ${from.numbers.qpn} of ${from.address} is ${at} after the one ` +
        `agreed, where ${used} were used`,
    );
    const responses = opcode === READ_REQUEST ? Math.ceil(dmaLength / agreement.mtu) : 1;
    used = Math.max(used, at + Math.max(responses, 1));
  }
  return used;
}

/** Checks answers to requests: the side that asked has used their PSNs. */
function checkAnswers(answers: readonly RocePacket[], asker: End, used: number): void {
  assert(answers.length > 0, `nothing was answered to queue pair ${asker.numbers.qpn}`);
  for (const { psn } of answers) {
    const at = distance(asker.numbers.psn, psn);
    assert(at < used, `the answer of PSN ${psn} is ${at} after the one agreed, of ${used} used`);
  }
}
