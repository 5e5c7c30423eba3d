import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { ProtocolError } from "../../lib/errors.ts";
import { answer, type Question } from "../../lib/services/messages.ts";
import {
  answerTo,
  HEADER_BYTES,
  message,
  RequestBuffer,
  RequestType,
} from "../../lib/services/plain_messages.ts";
import { noUsage } from "../../lib/session/usage.ts";

const maxBodyBytes = 10_000;
const questions = Object.keys(RequestType) as Question[];

/** Bodies smaller than what a buffer keeps, about as large, and much larger. */
const body = fc.oneof(
  fc.uint8Array({ maxLength: 40 }),
  fc.integer({ min: 1000, max: maxBodyBytes }).map((length) => new Uint8Array(length).fill(7)),
);
const asked = fc.array(fc.record({ question: fc.constantFrom(...questions), body }), {
  maxLength: 20,
});

/** Reads the stream in pieces of these lengths, as far as there is room, and answers. */
function answersTo(stream: Uint8Array, pieces: () => number, buffer: RequestBuffer) {
  const answers = [];
  for (let at = 0; at < stream.length;) {
    const space = buffer.space();
    const piece = stream.subarray(at, at + Math.min(space.length, pieces()));
    space.set(piece);
    buffer.filled(piece.length);
    at += piece.length;
    for (const request of buffer.requests()) {
      answers.push({ question: request.question, bytes: answerTo(request, noUsage()).slice() });
    }
  }
  return answers;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

function parse(bytes: Uint8Array) {
  const buffer = new RequestBuffer(maxBodyBytes);
  return answersTo(bytes, () => bytes.length, buffer);
}

Deno.test("requests are answered in order, however the stream is cut", () => {
  const cuts = fc.infiniteStream(fc.integer({ min: 1, max: 3000 }));
  fc.assert(fc.property(asked, cuts, (requests, lengths) => {
    const stream = joined(requests.map(({ question, body }) => message(question, body)));
    const buffer = new RequestBuffer(maxBodyBytes);
    const answers = answersTo(stream, () => lengths.next().value!, buffer);
    assertEquals(answers.map(({ question }) => question), requests.map((each) => each.question));
    for (const [index, { question, body }] of requests.entries()) {
      if (question === "TIME") continue;
      assertEquals(answers[index]!.bytes, message(question, answer(question, body)));
    }
    assert(buffer.atBoundary);
  }));
});

Deno.test("a request as it travels is big-endian, and so is its answer", () => {
  const request = new Uint8Array([0, 0, 0, 2, 0, 0, 0, 3, 97, 98, 99]);
  assertEquals(message("REVERSE", new TextEncoder().encode("abc")), request);
  assertEquals(parse(request)[0]!.bytes, new Uint8Array([0, 0, 0, 2, 0, 0, 0, 3, 99, 98, 97]));
  const [time] = parse(new Uint8Array([0, 0, 0, 3, 0, 0, 0, 0]));
  const text = new TextDecoder().decode(time!.bytes.subarray(HEADER_BYTES));
  assertEquals([...time!.bytes.subarray(0, HEADER_BYTES)], [0, 0, 0, 3, 0, 0, 0, 24]);
  assertEquals(new Date(text).toISOString(), text);
});

Deno.test("an unknown type and a body too long are refused as soon as the header is there", () => {
  const refused = (...header: number[]) =>
    assertThrows(() => parse(new Uint8Array(header)), ProtocolError).code;
  assertEquals(refused(0, 0, 0, 4, 0, 0, 0, 0), "message_type");
  assertEquals(refused(0, 0, 0, 0, 0, 0, 0, 0), "message_type");
  assertEquals(refused(1, 0, 0, 1, 0, 0, 0, 0), "message_type");
  assertEquals(refused(0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), "message_length");
});

Deno.test("whatever bytes come, they are requests or a named error", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
    try {
      parse(bytes);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
  }));
});

Deno.test("memory grows with the bytes that came, not with the length that was claimed", () => {
  const megabyte = 2 ** 20;
  const buffer = new RequestBuffer(megabyte);
  const idle = buffer.size;
  const stream = message("ECHO", new Uint8Array(megabyte));
  let came = 0;
  const piece = () => {
    assert(buffer.size <= Math.max(idle, 4 * came), `${buffer.size} bytes for ${came}`);
    came += 512;
    return 512;
  };
  assertEquals(answersTo(stream, piece, buffer).length, 1);
  assertEquals(buffer.size, idle, "what was large is let go");
});
