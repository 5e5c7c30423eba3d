/** What the two ends of a TLS connection agreed on, read from what they said in it. */
import { createHash } from "node:crypto";
import { type Frame, FrameDecoder, type FrameName } from "../../../lib/control/frame.ts";
import { KeySchedule } from "../../../lib/control/keys.ts";
import {
  decode,
  type Hello,
  type QueuePairNumbers,
  type RdmaChoices,
  type Seal,
  type Welcome,
} from "../../../lib/control/messages.ts";
import type { Chunk } from "./capture.ts";

/** What one end said of itself, and what follows from it. */
export interface End {
  readonly numbers: QueuePairNumbers;
  /** Its GID's, which is an IPv4-mapped one. */
  readonly address: string;
  readonly nonce: string;
  readonly secret: Uint8Array;
  /** Key and HMAC of its PROOF. */
  readonly proofKey: Uint8Array;
  readonly proof: Uint8Array;
  /** Of which all keys come that what it sends is sealed with. */
  readonly sealKey: Uint8Array<ArrayBuffer>;
}

/** What was agreed in one TLS connection. */
export interface Agreement {
  readonly session: string;
  readonly connect: RdmaChoices["connect"];
  readonly seal: Seal;
  /** Path MTU in bytes. */
  readonly mtu: number;
  readonly client: End;
  readonly server: End;
  /** Key and HMAC of the connection manager's private data. */
  readonly cmKey: Uint8Array;
  readonly cmToken: Uint8Array;
}

/** The exchange's frames before READY, with who sends them. */
const EXCHANGE: readonly [Chunk["from"], FrameName][] = [
  ["client", "HELLO"],
  ["client", "SECRET"],
  ["server", "WELCOME"],
  ["server", "SECRET"],
  ["client", "QP"],
  ["server", "QP"],
];

/** @throws Error when the connection does not begin with the exchange, frame by frame */
export function readAgreement(chunks: readonly Chunk[]): Agreement {
  const frames = readFrames(chunks);
  const said = frames.slice(0, EXCHANGE.length);
  const turns = said.map(({ from, frame }) => `${from} ${frame.name}`).join(", ");
  const expected = EXCHANGE.map((turn) => turn.join(" ")).join(", ");
  if (turns !== expected) throw new Error(`the exchange went ${turns}, not ${expected}`);
  const [hello, clientSecret, welcome, serverSecret, clientNumbers, serverNumbers] = said.map(
    ({ frame }) => decode(frame).body,
  ) as [Hello, Uint8Array, Welcome, Uint8Array, QueuePairNumbers, QueuePairNumbers];
  const context = {
    epoch: 0,
    qpns: { client: clientNumbers.qpn, server: serverNumbers.qpn },
  };
  const transcript = createHash("sha256");
  for (const { frame } of said) transcript.update(frame.bytes);
  // It wipes what it is given.
  using keys = new KeySchedule(clientSecret.slice(), serverSecret.slice(), transcript.digest());
  const end = (
    side: Chunk["from"],
    numbers: QueuePairNumbers,
    { nonce }: { nonce: string },
    secret: Uint8Array,
  ): End => ({
    numbers,
    address: numbers.gid.replace(/^::ffff:/, ""),
    nonce,
    secret,
    proofKey: keys.key("proof", side, context),
    proof: keys.token("proof", side, context),
    sealKey: keys.key("seal", side, context),
  });
  const { connect, seal } = welcome.choices as RdmaChoices;
  return {
    session: welcome.session,
    connect,
    seal,
    mtu: Math.min(clientNumbers.mtu, serverNumbers.mtu),
    client: end("client", clientNumbers, hello, clientSecret),
    server: end("server", serverNumbers, welcome, serverSecret),
    cmKey: keys.key("cm", "client", context),
    cmToken: keys.token("cm", "client", context),
  };
}

/** Both ends' frames, in the order in which they were complete. */
function readFrames(chunks: readonly Chunk[]): { from: Chunk["from"]; frame: Frame }[] {
  const decoders = { client: new FrameDecoder(), server: new FrameDecoder() };
  const frames = chunks.flatMap(({ from, bytes }) =>
    decoders[from].push(bytes).map((frame) => ({ from, frame }))
  );
  for (const [side, { atBoundary }] of Object.entries(decoders)) {
    if (!atBoundary) throw new Error(`the ${side}'s last frame is not complete`);
  }
  return frames;
}
