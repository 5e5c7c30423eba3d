import * as v from "valibot";
import ipaddr from "ipaddr.js";
import { decodeBase64 } from "@std/encoding/base64";
import { decodeBase64Url } from "@std/encoding/base64url";
import { ProtocolError } from "../errors.ts";
import { type Frame, type FrameName, makeFrame } from "./frame.ts";
import { isPlain } from "./plain_json.ts";
import { issueText } from "./schema_issue.ts";

/** Version of the control protocol. */
export const VERSION = 1;

/** Bytes of a SECRET and of a nonce. */
export const SECRET_BYTES = 32;

/** Bytes of a session's name. */
export const SESSION_BYTES = 16;

const unsigned = (bits: number) =>
  v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** bits - 1));
const octets = (length: number, decode: (text: string) => Uint8Array) =>
  v.pipe(
    v.string(),
    v.maxLength(2 * length),
    v.check((text) => {
      try {
        return decode(text).length === length;
      } catch {
        return false;
      }
    }, `not ${length} bytes`),
  );
const text = (length: number) => v.pipe(v.string(), v.maxLength(length));
const nonce = octets(SECRET_BYTES, decodeBase64);
/** Ranges of addresses, in ipaddr.js's words, that are those of many ports or of none. */
const notOnePort: ReadonlySet<string> = new Set(["multicast", "broadcast", "unspecified"]);
const list = <const T extends readonly string[]>(names: T) =>
  v.pipe(v.array(v.picklist(names)), v.minLength(1), v.maxLength(names.length));

const transport = ["rdma", "ktls"] as const;
const provider = ["verbs", "roce"] as const;
const connect = ["tls", "cm"] as const;
const seal = ["aes-256-gcm", "chacha20-poly1305", "off"] as const;
const service = ["messages", "memory", "files"] as const;

/** What carries data: a queue pair, or a TLS connection of its own that the kernel seals. */
export type Transport = typeof transport[number];
export type Provider = typeof provider[number];
export type Connect = typeof connect[number];
/** How what RDMA carries is sealed; not at all with `off`. */
export type Seal = typeof seal[number];
export type SealCipher = Exclude<Seal, "off">;
export type Service = typeof service[number];

const session = octets(SESSION_BYTES, decodeBase64Url);

/** What a client offers. Without RDMA there is nothing to say of queue pairs. */
const offers = v.pipe(
  v.strictObject({
    /** Most wanted first. */
    transports: list(transport),
    /** The one that the client uses. */
    providers: v.optional(v.strictTuple([v.picklist(provider)])),
    connect: v.optional(list(connect)),
    seal: v.optional(list(seal)),
    services: list(service),
  }),
  v.check(({ transports, providers, connect, seal }) => {
    const rdma = transports.includes("rdma");
    return [providers, connect, seal].every((offer) => (offer !== undefined) === rdma);
  }, "providers, connect and seal belong to the transport rdma"),
);

/** What the server chose of it. */
const choices = v.variant("transport", [
  v.strictObject({
    transport: v.literal("rdma"),
    /** The one that the server uses: any can meet any. */
    provider: v.picklist(provider),
    connect: v.picklist(connect),
    seal: v.picklist(seal),
    services: list(service),
  }),
  v.strictObject({ transport: v.literal("ktls"), services: list(service) }),
]);

/** Schemas of the bodies that are JSON, by frame. Nothing beyond these fields is accepted. */
const schemas = {
  HELLO: v.strictObject({
    version: v.literal(VERSION),
    nonce,
    offers,
    agent: text(128),
    /** Name of an earlier session: this one goes on with what that has left unfinished. */
    resume: v.optional(session),
  }),
  WELCOME: v.strictObject({
    version: v.literal(VERSION),
    session,
    nonce,
    choices,
    limits: v.strictObject({
      /** Bytes of a message. */
      messageBytes: unsigned(32),
      /** Bytes of the region that the memory service lends. */
      registeredBytes: unsigned(32),
      /** Seconds of silence after which the server ends the session. */
      idleSeconds: unsigned(32),
    }),
  }),
  QP: v.strictObject({
    epoch: unsigned(32),
    // 0 and 1 are the special queue pairs of a port (IBTA volume 1, section 3.5.11).
    qpn: v.pipe(unsigned(24), v.minValue(2)),
    psn: unsigned(24),
    gid: v.pipe(
      v.string(),
      v.maxLength(45),
      v.check((gid) => ipaddr.IPv6.isValid(gid) && !gid.includes("%"), "not a GID"),
      v.check((gid) => !notOnePort.has(ipaddr.process(gid).range()), "not the GID of one port"),
    ),
    gidType: v.picklist(["InfiniBand", "RoCE v1", "RoCE v2"]),
    lid: unsigned(16),
    mtu: v.picklist([256, 512, 1024, 2048, 4096]),
    maxRdAtomic: unsigned(8),
    maxDestRdAtomic: unsigned(8),
    /** Receives that are posted: the messages that the peer may send at first. */
    receives: v.pipe(unsigned(16), v.minValue(2)),
    /** Told by the embedded provider, always; to devices it is 4791. */
    udpPort: v.optional(v.pipe(unsigned(16), v.minValue(1))),
  }),
  READY: v.strictObject({ epoch: unsigned(32) }),
  REQUEUE: v.strictObject({ epoch: unsigned(32), reason: text(256) }),
  PING: v.strictObject({ id: unsigned(32) }),
  PONG: v.strictObject({ id: unsigned(32) }),
  REQUEST: v.strictObject({
    id: unsigned(32),
    service: v.picklist(service),
    /** Checked by the service; how much there is in it was checked before it was parsed. */
    body: v.unknown(),
  }),
  REPLY: v.strictObject({
    id: unsigned(32),
    body: v.optional(v.unknown()),
    error: v.optional(v.strictObject({ code: text(64), text: text(1024) })),
  }),
  ERROR: v.strictObject({ code: text(64), text: text(1024) }),
  BYE: v.strictObject({}),
} satisfies Partial<Record<FrameName, v.GenericSchema>>;

type Bodies = { [K in keyof typeof schemas]: v.InferOutput<typeof schemas[K]> };

export type Hello = Bodies["HELLO"];
export type Offers = Hello["offers"];
export type Welcome = Bodies["WELCOME"];
export type Choices = Welcome["choices"];
/** What was chosen of a queue pair. */
export type RdmaChoices = Extract<Choices, { readonly transport: "rdma" }>;
export type QueuePairNumbers = Bodies["QP"];
export type Request = Bodies["REQUEST"];
export type Reply = Bodies["REPLY"];

/** A control message: the frame's name and its checked body. A SECRET's body is 32 bytes, which can be wiped. */
export type Message =
  | { [K in keyof Bodies]: { readonly name: K; readonly body: Bodies[K] } }[keyof Bodies]
  | { readonly name: "SECRET"; readonly body: Uint8Array<ArrayBuffer> };

/** The frame of a message of ours. */
export function encode(message: Message): Frame {
  const body = message.name === "SECRET"
    ? message.body
    : new TextEncoder().encode(JSON.stringify(message.body));
  return makeFrame(message.name, body);
}

/**
 * The message of a received frame.
 *
 * @throws ProtocolError naming the first field that violates the schema
 */
export function decode(frame: Frame): Message {
  if (frame.name === "SECRET") {
    if (frame.body.length !== SECRET_BYTES) {
      throw new ProtocolError("schema", `SECRET of ${frame.body.length} bytes`);
    }
    return { name: "SECRET", body: frame.body };
  }
  const result = v.safeParse(schemas[frame.name], parseJson(frame));
  if (result.success) return { name: frame.name, body: result.output } as Message;
  throw new ProtocolError("schema", `${frame.name}: ${issueText(result.issues)}`);
}

function parseJson(frame: Frame): unknown {
  if (!isPlain(frame.body)) {
    throw new ProtocolError("schema", `${frame.name}: more values than a message has, or too deep`);
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(frame.body));
  } catch {
    throw new ProtocolError("schema", `${frame.name}: the body is not JSON`);
  }
}
