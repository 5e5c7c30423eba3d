import { assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";

/** Fills with random bytes, of any length. */
export function randomize(bytes: Uint8Array<ArrayBuffer>): void {
  const most = 65536; // of getRandomValues
  for (let at = 0; at < bytes.length; at += most) {
    crypto.getRandomValues(bytes.subarray(at, at + most));
  }
}

/** Asserts that bytes are equal, and otherwise says from where on they are not. */
export function assertSameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  assertEquals(actual.length, expected.length, what);
  if (Buffer.compare(actual, expected) === 0) return;
  const first = actual.findIndex((byte, index) => byte !== expected[index]);
  throw new Error(`${what} differs from byte ${first} of ${actual.length} on`);
}
