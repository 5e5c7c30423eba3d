/**
 * The message service as a byte stream, for programs without RDMA. A request is a header and a
 * body, its answer the same with the type of the question; answers come in the order of requests.
 *
 * | bytes | header                           |
 * | ----- | -------------------------------- |
 * | 4     | type, big-endian                 |
 * | 4     | bytes of the body, big-endian    |
 *
 * Bodies are not terminated: a NUL that a client counts in is text like any other.
 */
import { ProtocolError } from "../errors.ts";
import type { ServiceUsage } from "../session/usage.ts";
import { countedAnswer, type Question } from "./messages.ts";

/** Types of requests and of their answers, by number on the wire. */
export const RequestType = { ECHO: 1, REVERSE: 2, TIME: 3 } as const satisfies Record<
  Question,
  number
>;

const questions = new Map<number, Question>(
  Object.entries(RequestType).map(([question, type]) => [type, question as Question]),
);

/** Bytes of a header: type and length. */
export const HEADER_BYTES = 8;

/** Bytes that a connection keeps between requests. */
const IDLE_BYTES = 1024;

/** A full buffer grows so many times as large, never beyond the end of the request in it. */
const GROWTH = 4;

/** A complete request; its bytes are valid until the buffer is given more. */
export interface Request {
  readonly question: Question;
  readonly body: Uint8Array;
  /** All of it, as it came. */
  readonly bytes: Uint8Array;
}

/** The answer to a request, as it travels, and counted; it may be the request's own bytes. */
export function answerTo({ question, body, bytes }: Request, usage: ServiceUsage): Uint8Array {
  const answered = countedAnswer(question, body, usage);
  return question === "ECHO" ? bytes : message(question, answered);
}

/** A request or an answer as it travels. */
export function message(question: Question, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  const header = new DataView(bytes.buffer);
  header.setUint32(0, RequestType[question]);
  header.setUint32(4, body.length);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

/**
 * Cuts a stream into requests: read into {@linkcode space}, say how much came, take the requests.
 * It is small between requests and grows as bytes come: a length that is claimed costs nothing.
 */
export class RequestBuffer {
  readonly #maxBodyBytes: number;
  #bytes = new Uint8Array(IDLE_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /**
   * @param maxBodyBytes length of a body at most
   * @param hold is told how many bytes more it holds than between requests, or less; may throw
   */
  constructor(
    maxBodyBytes: number,
    private readonly hold: (change: number) => void = () => {},
  ) {
    this.#maxBodyBytes = maxBodyBytes;
  }

  /** Bytes of memory that it holds. */
  get size(): number {
    return this.#bytes.length;
  }

  /** Whether the stream may end here: not within a request. */
  get atBoundary(): boolean {
    return this.#length === 0;
  }

  /** Room for at least one byte, once the requests before have been taken. */
  space(): Uint8Array {
    if (this.#length === this.#bytes.length) {
      const end = HEADER_BYTES + this.#view.getUint32(4);
      this.#replace(Math.min(end, GROWTH * this.#length));
    }
    return this.#bytes.subarray(this.#length);
  }

  /** So many bytes have been read into {@linkcode space}. */
  filled(count: number): void {
    this.#length += count;
  }

  /**
   * The requests that are complete. Take them all before more is read.
   *
   * @throws ProtocolError on an unknown type or an oversized length, as soon as the header is there
   */
  *requests(): Generator<Request, void> {
    let at = 0;
    for (let request; (request = this.#requestAt(at)); at += request.bytes.length) yield request;
    if (at === 0) return;
    this.#bytes.copyWithin(0, at, this.#length);
    this.#length -= at;
    if (this.#length === 0 && this.#bytes.length > IDLE_BYTES) this.#replace(IDLE_BYTES);
  }

  #requestAt(at: number): Request | undefined {
    if (this.#length - at < HEADER_BYTES) return undefined;
    const type = this.#view.getUint32(at);
    const length = this.#view.getUint32(at + 4);
    const question = questions.get(type);
    if (question === undefined) {
      throw new ProtocolError("message_type", `message of unknown type ${type}`);
    }
    if (length > this.#maxBodyBytes) {
      throw new ProtocolError(
        "message_length",
        `message of ${length} bytes, more than ${this.#maxBodyBytes}`,
      );
    }
    const end = at + HEADER_BYTES + length;
    if (end > this.#length) return undefined;
    const bytes = this.#bytes.subarray(at, end);
    return { question, body: bytes.subarray(HEADER_BYTES), bytes };
  }

  #replace(size: number): void {
    this.hold(size - this.#bytes.length);
    const bytes = new Uint8Array(size);
    bytes.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }
}
