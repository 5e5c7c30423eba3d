import { crc32 } from "node:zlib";
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { maskBth, Packet } from "../../../lib/rdma/roce/headers.ts";
import { IcrcPrefix, MAX_SEGMENTS } from "../../../lib/rdma/roce/icrc.ts";
import { ICRC_BYTES } from "../../../lib/rdma/roce/opcode.ts";
import {
  datagramOf,
  type Fixture,
  fixtures,
  icrcIn,
  IP_VERSIONS,
  type IpVersion,
  referenceIcrc,
} from "./fixtures.ts";

const IDS = 2 ** 16;

/** What an ICRC covers behind the UDP header, and what its ICRC begins with. */
interface Covered {
  readonly prefix: IcrcPrefix;
  readonly covered: Uint8Array<ArrayBuffer>;
  readonly icrc: number;
}

function coveredOf(fixture: Fixture): Covered {
  const { from, to, bytes } = datagramOf(fixture);
  maskBth(new DataView(bytes.buffer), 0);
  return {
    prefix: new IcrcPrefix(from, to),
    covered: bytes.subarray(0, -ICRC_BYTES),
    icrc: icrcIn(bytes),
  };
}

const anyFixture = (version: IpVersion) => fc.constantFrom(...fixtures(version));

/** The only packet of a SEND of one byte: the fewest bytes that have payload and padding. */
const short = fixtures("IPv4").find(({ payloadBytes }) => payloadBytes === 1)!;

for (const version of IP_VERSIONS) {
  Deno.test(`the ICRCs of rdma_rxe over ${version} match, whatever ID is likely`, () => {
    fc.assert(fc.property(anyFixture(version), fc.nat(MAX_SEGMENTS - 1), (fixture, likelyId) => {
      const { prefix, covered, icrc } = coveredOf(fixture);
      assert(prefix.matches(covered, likelyId, icrc));
    }));
  });

  Deno.test(`an ICRC over ${version} for each IP ID of a segment is that of all bytes`, () => {
    fc.assert(fc.property(anyFixture(version), fc.nat(MAX_SEGMENTS - 1), (fixture, id) => {
      const { prefix, covered } = coveredOf(fixture);
      assertEquals(prefix.icrc(covered, id), referenceIcrc(fixture, id));
    }));
  });

  Deno.test(`an ICRC over ${version} does not match with another address or port`, () => {
    for (const fixture of fixtures(version)) {
      const { from, to } = datagramOf(fixture);
      const { covered, icrc } = coveredOf(fixture);
      const next = Uint8Array.from(from.address, (octet) => octet ^ 1);
      for (
        const prefix of [
          new IcrcPrefix({ ...from, address: next }, to),
          new IcrcPrefix(from, { ...to, port: to.port ^ 1 }),
          new IcrcPrefix(to, from),
        ]
      ) {
        // Over IPv4 one of 65536 would match.
        assert(!prefix.matches(covered, 0, icrc));
      }
    }
  });

  Deno.test(`a changed bit between BTH and padding is found over ${version}, wherever it is`, () => {
    for (const fixture of fixtures(version)) {
      const { prefix, covered, icrc } = coveredOf(fixture);
      for (let bit = 0; bit < 8 * covered.length; bit++) {
        covered[bit >> 3]! ^= 1 << (bit & 7);
        assert(!prefix.matches(covered, 0, icrc), `bit ${bit} of opcode ${fixture.opcode}`);
        covered[bit >> 3]! ^= 1 << (bit & 7);
      }
    }
  });
}

Deno.test("over IPv6 any other ICRC is found, also one that an IP ID would explain: all 32 bits are checked", () => {
  const { prefix, covered, icrc } = coveredOf(fixtures("IPv6")[0]!);
  const explained = fc.integer({ min: 1, max: IDS - 1 }).map((id) => {
    // From the ID of an IPv4 header on: 16 bytes of it, and those of UDP.
    const bytes = new Uint8Array(16 + 8 + covered.length);
    const without = crc32(bytes);
    new DataView(bytes.buffer).setUint16(0, id);
    return (crc32(bytes) ^ without) >>> 0;
  });
  const others = fc.oneof(fc.integer({ min: 1, max: 0xffff_ffff }), explained);
  fc.assert(fc.property(others, (difference) => {
    assert(!prefix.matches(covered, 0, (icrc ^ difference) >>> 0));
  }));
});

Deno.test("over IPv4 an ICRC that was made for other flags or a fragment does not match", () => {
  const { prefix, covered, icrc } = coveredOf(short);
  assertEquals(referenceIcrc(short, datagramOf(short).id, 0x4000), icrc);
  for (let bit = 0; bit < 16; bit++) {
    assert(!prefix.matches(covered, 0, referenceIcrc(short, 0, 0x4000 ^ (1 << bit))), `bit ${bit}`);
  }
});

Deno.test("over IPv4 exactly the ICRCs of the 65536 IP IDs match: 16 bits are checked", () => {
  const { prefix, covered } = coveredOf(short);
  const right = Array.from({ length: IDS }, (_, id) => referenceIcrc(short, id));
  assertEquals(right.filter((icrc) => !prefix.matches(covered, 0, icrc)), []);

  const possible = new Set(right);
  assertEquals(possible.size, IDS);
  const candidates = fc.oneof(
    fc.integer({ min: 0, max: 0xffff_ffff }),
    fc.tuple(fc.nat(IDS - 1), fc.nat(31)).map(([id, bit]) => (right[id]! ^ (1 << bit)) >>> 0),
  );
  fc.assert(fc.property(candidates, (icrc) => {
    assertEquals(prefix.matches(covered, 0, icrc), possible.has(icrc));
  }));
});

Deno.test("the byte of the BTH that may change on the way has no part in the ICRC", () => {
  const { bytes } = datagramOf(short);
  const view = new DataView(bytes.buffer);
  const { covered } = coveredOf(short);
  for (const changed of [0x00, 0x40, 0x80, 0xff]) {
    view.setUint8(4, changed);
    maskBth(view, 0);
    assertEquals(bytes.subarray(0, -ICRC_BYTES), covered);
    // And it is no part of the queue pair's number either.
    const packet = new Packet();
    assert(packet.decode(view, 0, bytes.length));
    assertEquals(packet.destQpn, short.destQpn);
  }
});
