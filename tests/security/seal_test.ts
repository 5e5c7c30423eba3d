import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { encodeHex } from "@std/encoding/hex";
import fc from "fast-check";
import { Memory } from "../../ffi/memory.ts";
import { IntegrityError, ProtocolError, RdmaError } from "../../lib/errors.ts";
import { EvpRecordCipher } from "../../lib/security/evp_record_cipher.ts";
import { NodeRecordCipher } from "../../lib/security/node_record_cipher.ts";
import { KEY_BYTES, type RecordCipher } from "../../lib/security/record_cipher.ts";
import { RecordLane } from "../../lib/security/record_lane.ts";
import { RECORD_OVERHEAD, type RecordSeal, SessionSeal } from "../../lib/security/seal.ts";
import { clientKeys, memoryOf, opened, sealed, SealedPair, serverKeys } from "./sealed_pair.ts";

const text = new TextEncoder().encode("RDMA has no encryption of its own");
const ciphers = ["aes-256-gcm", "chacha20-poly1305"] as const;

/** Made of the description in seal.ts by Node's crypto alone. */
const vectors = {
  "aes-256-gcm": {
    message:
      "0000000000000000f81dd410dba6cfd337b03d9d75fb5e0a21404c6562090e8b318c97b54083868a0f5b" +
      "664fc974478fb8d8f15d9efc8e7dc8",
    chunk: "000000000000000019ef04e5c0b75e8b604ce5693ebb52ce30bf2e25ad75a92899d9271bad0152478a19" +
      "6e016ae2348f7f61ebd69c5ceda097",
    rekeyed:
      "00000000000000023301967d38d04b1a4f7344715336ad25a50902927e91422578927040fffd3c3d46cf" +
      "8f8cf8bd1509a84cc9e13ec0783035",
  },
  "chacha20-poly1305": {
    message:
      "0000000000000000132a57b1867672ba3d7740ea1d310adc8dabd512b55b040d351d8948bcbbdef2a00e" +
      "24981b4f66d7f853fbb3584605275f",
    chunk: "0000000000000000e056884e473e33aa81c228c3e416a269391c53c5a175ab3632e1064aa0e8019ea490" +
      "4b7a6e0cb0ccab2ba870bc55f36dfa",
    rekeyed:
      "00000000000000029a6fafa6c9b7c5583118749884aac679225218ab06c5b490a39f071dee2874f8b45d" +
      "6d170672c07ec3f8fe48cdea40a6ef",
  },
} as const;

Deno.test("what records of files and memory take is told, and of messages, which are small, nothing", () => {
  const took: number[] = [];
  const worked = (milliseconds: number) => took.push(milliseconds);
  using seal = new SessionSeal(clientKeys(), { side: "client", fail: () => {}, worked });
  using message = seal.channel("messages");
  sealed(message, text);
  assertEquals(took, []);
  using chunk = seal.channel("files", 1);
  sealed(chunk, new Uint8Array(2 ** 18));
  using other = new SessionSeal(serverKeys(), { side: "server", fail: () => {}, worked });
  using memory = other.channel("memory", 1);
  sealed(memory, text);
  assertEquals(took.map((milliseconds) => milliseconds > 0), [true, true]);
});

for (const cipher of ciphers) {
  Deno.test(`records of ${cipher} are those of the known answers`, () => {
    const fail = () => {};
    using first = new SessionSeal(clientKeys({ cipher }), { side: "client", fail });
    using message = first.channel("messages");
    assertEquals(encodeHex(sealed(message, text)), vectors[cipher].message);
    using third = new SessionSeal(clientKeys({ cipher, epoch: 3 }), { side: "client", fail });
    using chunk = third.channel("files", 7);
    assertEquals(encodeHex(sealed(chunk, text, 2 ** 33 + 5)), vectors[cipher].chunk);
    const limits = { records: 2, bytes: Infinity };
    using worn = new SessionSeal(clientKeys({ cipher }), { side: "client", fail, limits });
    using rekeyed = worn.channel("messages");
    sealed(rekeyed, text);
    sealed(rekeyed, text);
    assertEquals(encodeHex(sealed(rekeyed, text)), vectors[cipher].rekeyed);
  });

  Deno.test(`what was sealed with ${cipher} opens to the same bytes, in order, both ways`, () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(fc.uint8Array({ maxLength: 20_000 }), fc.maxSafeNat()),
          { minLength: 1, maxLength: 8 },
        ),
        (records) => {
          using pair = new SealedPair({ cipher });
          using client = pair.client.channel("files", 1);
          using server = pair.server.channel("files", 1);
          for (const [bytes, offset] of records) {
            assertEquals(opened(server, sealed(client, bytes, offset), offset), bytes);
            assertEquals(opened(client, sealed(server, bytes, offset), offset), bytes);
          }
          assertEquals(pair.failures, []);
        },
      ),
      { numRuns: 30 },
    );
  });

  Deno.test(`libcrypto and node:crypto make the same records of ${cipher}, and open each other's`, () => {
    using evp = new EvpRecordCipher(cipher, "seal");
    using node = new NodeRecordCipher(cipher);
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: KEY_BYTES, maxLength: KEY_BYTES }),
        fc.uint8Array({ maxLength: 5000 }),
        fc.uint8Array({ minLength: 56, maxLength: 56 }),
        (key, bytes, around) => {
          const records = [evp, node].map((each) => rawRecord(each, key, around, bytes));
          assertEquals(records[0], records[1]);
          for (const each of [new EvpRecordCipher(cipher, "open"), new NodeRecordCipher(cipher)]) {
            using opener = each;
            prepare(opener, key, around);
            using record = memoryOf(records[0]!);
            using target = new Memory(bytes.length + 1);
            assert(opener.open(record, 0, bytes.length, target, 0));
            assertEquals(target.bytes.slice(0, bytes.length), bytes);
            record.bytes[around[0]! % record.length]! ^= 1;
            prepare(opener, key, around);
            assert(!opener.open(record, 0, bytes.length, target, 0));
            assert(target.bytes.every((octet) => octet === 0), "nothing is left of the one before");
          }
        },
      ),
      { numRuns: 50 },
    );
  });
}

function prepare(cipher: RecordCipher, key: Uint8Array, around: Uint8Array): void {
  cipher.setKey(new Uint8Array(key));
  around.subarray(0, 12).forEach((octet, index) => cipher.nonce.setUint8(index, octet));
  around.subarray(12).forEach((octet, index) => cipher.associatedData.setUint8(index, octet));
}

/** Ciphertext and tag. */
function rawRecord(
  cipher: RecordCipher,
  key: Uint8Array,
  around: Uint8Array,
  bytes: Uint8Array,
): Uint8Array {
  prepare(cipher, key, around);
  using source = memoryOf(bytes);
  using target = new Memory(bytes.length + 16);
  cipher.seal(source, 0, bytes.length, target, 0);
  return target.bytes.slice();
}

Deno.test("a record with any bit flipped is refused, and ends the session", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(), (bytes, where) => {
      using pair = new SealedPair();
      using client = pair.client.channel("messages");
      using server = pair.server.channel("messages");
      const record = sealed(client, bytes);
      const bit = where % (record.length * 8);
      record[bit >> 3]! ^= 1 << (bit & 7);
      const error = assertThrows(() => opened(server, record), IntegrityError);
      assertEquals(error.code, bit < 64 ? "record_out_of_order" : "record_forged");
      assertEquals(pair.failures, [error]);
    }),
    { numRuns: 300 },
  );
});

Deno.test("a sequence that was changed to the next one does not make a record the next one", () => {
  using pair = new SealedPair();
  using client = pair.client.channel("messages");
  using server = pair.server.channel("messages");
  sealed(client, text);
  const second = sealed(client, text);
  second[7] = 0;
  assertEquals(assertThrows(() => opened(server, second), IntegrityError).code, "record_forged");
});

/** Opens a record of the client's channel `files` 1, at offset 512, somewhere else than it belongs. */
function openElsewhere(
  open: (record: Uint8Array, pair: SealedPair) => unknown,
): string {
  using pair = new SealedPair();
  using client = pair.client.channel("files", 1);
  const record = sealed(client, text, 512);
  return assertThrows(() => open(record, pair), IntegrityError).code;
}

Deno.test("a record opens in no other session, epoch, direction, channel or transfer", () => {
  const others: Record<string, (pair: SealedPair) => { seal: SessionSeal; channel: RecordSeal }> = {
    "session": () => server({ session: new Uint8Array(16) }),
    "epoch": () => server({ epoch: 1 }),
    "key": () => server({ own: new Uint8Array(32).fill(0x12) }),
    "cipher": () => server({ cipher: "chacha20-poly1305" }),
    "channel": () => server({}, "memory", 1),
    "transfer": () => server({}, "files", 2),
  };
  function server(
    change: Parameters<typeof serverKeys>[0],
    channel: "files" | "memory" = "files",
    transfer = 1,
  ) {
    const seal = new SessionSeal(serverKeys(change), { side: "server", fail: () => {} });
    return { seal, channel: seal.channel(channel, transfer) };
  }
  for (const [name, other] of Object.entries(others)) {
    const code = openElsewhere((record, pair) => {
      const { seal, channel } = other(pair);
      using _seal = seal;
      using _channel = channel;
      opened(channel, record, 512);
    });
    assertEquals(code, "record_forged", `another ${name}`);
  }
});

Deno.test("a record is not opened by who sealed it, even where both directions have one key", () => {
  const same = new Uint8Array(32).fill(5);
  const keys = () => clientKeys({ own: same.slice(), peer: same.slice() });
  using client = new SessionSeal(keys(), { side: "client", fail: () => {} });
  using channel = client.channel("messages");
  const record = sealed(channel, text);
  assertEquals(assertThrows(() => opened(channel, record), IntegrityError).code, "record_forged");
});

Deno.test("a record opens at its own offset and with its own length only", () => {
  const open = (offset: number, length?: number) =>
    openElsewhere((record, pair) => {
      using server = pair.server.channel("files", 1);
      opened(server, record, offset, length);
    });
  assertEquals(open(513), "record_forged");
  assertEquals(open(512 + 2 ** 32), "record_forged");
  assertEquals(open(512, text.length - 1), "record_forged");
});

Deno.test("records are opened once each and in their order", () => {
  using pair = new SealedPair();
  using client = pair.client.channel("messages");
  using server = pair.server.channel("messages");
  const [first, second, third] = [1, 2, 3].map((octet) => sealed(client, Uint8Array.of(octet)));
  opened(server, first!);
  const replayed = assertThrows(() => opened(server, first!), IntegrityError);
  assertEquals(replayed.code, "record_replayed");
  const early = assertThrows(() => opened(server, third!), IntegrityError);
  assertEquals(early.code, "record_out_of_order");
  assertEquals(pair.failures, [replayed, early]);
  assertEquals(opened(server, second!), Uint8Array.of(2), "nothing of them counts");
});

Deno.test("what does not open leaves no plaintext in the target", () => {
  for (const open of [forge, withoutLibcrypto]) open();

  function forge() {
    using pair = new SealedPair();
    using client = pair.client.channel("messages");
    using server = pair.server.channel("messages");
    using record = memoryOf(sealed(client, text));
    using target = new Memory(text.length);
    record.bytes[record.length - 1]! ^= 1;
    assertThrows(() => server.open(record, 0, text.length, target, 0, 0), IntegrityError);
    assertEquals(target.bytes, new Uint8Array(text.length));
  }

  function withoutLibcrypto() {
    using sealing = new NodeRecordCipher("aes-256-gcm");
    const around = new Uint8Array(56);
    using record = memoryOf(rawRecord(sealing, new Uint8Array(32), around, text));
    using target = new Memory(text.length);
    record.bytes[0]! ^= 1;
    assert(!sealing.open(record, 0, text.length, target, 0));
    assertEquals(target.bytes, new Uint8Array(text.length));
  }
});

Deno.test("both sides replace the key at the same record, by records and by bytes", () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(400), { minLength: 20, maxLength: 60 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 2000 }),
      (lengths, records, bytes) => {
        using pair = new SealedPair({ limits: { records, bytes } });
        using client = pair.client.channel("messages");
        using server = pair.server.channel("messages");
        for (const length of lengths) {
          const plaintext = crypto.getRandomValues(new Uint8Array(length));
          assertEquals(opened(server, sealed(client, plaintext)), plaintext);
        }
      },
    ),
    { numRuns: 40 },
  );
});

Deno.test("a side that replaces the key at another record is not understood", () => {
  const never = { records: Infinity, bytes: Infinity };
  for (const soon of [{ records: 2 }, { bytes: 2 * text.length }]) {
    using early = new SealedPair({ limits: { ...never, ...soon } });
    using late = new SealedPair({ limits: never });
    using client = early.client.channel("messages");
    using server = late.server.channel("messages");
    for (let record = 0; record < 2; record++) opened(server, sealed(client, text));
    assertThrows(() => opened(server, sealed(client, text)), IntegrityError);
  }
});

Deno.test("no two records of the same bytes are alike", () => {
  using pair = new SealedPair();
  using channel = pair.client.channel("messages");
  const ciphertexts = [1, 2].map(() => sealed(channel, text).slice(8));
  assertNotEquals(ciphertexts[0], ciphertexts[1]);
});

Deno.test("a transfer's number serves once, and only a larger one after it", () => {
  using pair = new SealedPair();
  using _files = pair.server.channel("files", 5);
  using _memory = pair.server.channel("memory", 5);
  for (const transfer of [5, 4]) {
    const error = assertThrows(() => pair.server.channel("files", transfer), ProtocolError);
    assertEquals(error.code, "transfer");
  }
  using _next = pair.server.channel("files", 6);
});

Deno.test("nothing is sealed or opened outside of its memory", () => {
  using pair = new SealedPair();
  using channel = pair.client.channel("messages");
  using memory = new Memory(4096);
  using record = new Memory(100 + RECORD_OVERHEAD);
  for (
    const [at, length, targetAt] of [
      ...[[0, 101, 0], [0, 100, 1], [4000, 97, 0], [-1, 10, 0], [0, -1, 0], [0, 10, -1]],
      ...[[0, 2 ** 31, 0], [NaN, 1, 0], [0.5, 1, 0]],
    ] as const
  ) {
    assertThrows(() => channel.seal(memory, at, length, record, targetAt, 0), RangeError);
  }
  assertThrows(() => channel.open(record, 0, 101, memory, 0, 0), RangeError);
  assertThrows(() => channel.open(record, 0, 100, memory, 3997, 0), RangeError);
  channel.seal(memory, 3996, 100, record, 0, 0);
});

Deno.test("keys are wiped where they came from, when they are replaced, and at the end", () => {
  const zeros = new Uint8Array(32);
  const keys = clientKeys();
  const session = new SessionSeal(keys, { side: "client", fail: () => {} });
  assertEquals([keys.own, keys.peer], [zeros, zeros]);
  session[Symbol.dispose]();
  assertThrows(() => session.channel("messages"), RdmaError, "ended");

  const key = new Uint8Array(32).fill(7);
  const before = key.slice();
  const name = { session: new Uint8Array(16), direction: "client", channel: 0, epoch: 0 } as const;
  const cipher = new EvpRecordCipher("aes-256-gcm", "seal");
  const lane = new RecordLane(cipher, name, key, { records: 1, bytes: Infinity });
  lane.next(0, 1);
  assertEquals(key, before);
  lane.next(0, 1);
  assertNotEquals(key, before, "the new key takes the place of the old one");
  lane[Symbol.dispose]();
  assertEquals(key, zeros);
  assertThrows(() => lane.next(0, 1), RdmaError, "ended");
});
