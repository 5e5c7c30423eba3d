import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { libc } from "../../../ffi/libc.ts";
import { AttackedEnd, MOST_ANSWERS } from "./attacked_end.ts";
import { Forger, forgeries } from "./forged_packet.ts";
import type { IpVersion } from "./simulated_end.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const attacks = fc.record({
  version: fc.constantFrom<IpVersion[]>("IPv4", "IPv6"),
  packets: fc.array(forgeries, { minLength: 1, maxLength: 40, size: "max" }),
});

Deno.test("no packets that a peer can make write or tell what they may not, stop the port, or have it send without bound", () => {
  fc.assert(
    fc.property(attacks, ({ version, packets }) => {
      using attacked = new AttackedEnd(version);
      const { end, peer } = attacked;
      using forger = new Forger(peer, end.host.port.local);
      for (const forgery of packets) {
        attacked.hit(forger.make(forgery, attacked.knowledge));
        if (end.queuePair.query().state === "ERR") attacked.begin();
      }
      attacked.checkMemory();
      attacked.checkNothingTold();
      attacked.checkCompletions();
      const most = MOST_ANSWERS * (packets.length + 1) + attacked.posted;
      assert(attacked.sent.length <= most, `${attacked.sent.length} packets sent`);
    }),
    { numRuns: 500 },
  );
});

/** Packets that must have no effect at all, by what is wrong with them. */
const dropped: Record<string, { stranger: boolean; icrc: boolean; counter: string }> = {
  "with a wrong ICRC": { stranger: false, icrc: false, counter: "icrc_errors" },
  "from another address than the peer's": { stranger: true, icrc: true, counter: "wrong_source" },
};

for (const [what, { stranger, icrc, counter }] of Object.entries(dropped)) {
  Deno.test(`packets ${what} have no effect but to be counted`, () => {
    fc.assert(
      // Over IPv4 one wrong ICRC of 65536 is taken for one of another IP ID.
      fc.property(attacks, fc.integer({ min: 1, max: 255 }), ({ packets }, difference) => {
        using attacked = new AttackedEnd("IPv6");
        const { end } = attacked;
        const from = stranger ? attacked.stranger : attacked.peer;
        using forger = new Forger(from, end.host.port.local);
        const before = end.queuePair.query();
        const sentBefore = attacked.sent.length;
        for (const forgery of packets) {
          const bytes = forger.make(forgery, attacked.knowledge);
          if (!icrc) bytes[bytes.length - 1]! ^= difference;
          attacked.hit(bytes, from);
        }
        assertEquals(end.queuePair.query(), before);
        assertEquals([end.sent, end.received], [[], []]);
        assertEquals(attacked.sent.length, sentBefore);
        attacked.checkNothingWritten();
        const counters = end.host.port.counters.toRecord();
        assertEquals(counters[counter]! + counters["malformed_packets"]!, packets.length);
      }),
      { numRuns: 100 },
    );
  });
}

Deno.test("any bytes from any address have no effect", () => {
  const datagrams = fc.array(
    fc.record({ bytes: fc.uint8Array({ maxLength: 600, size: "max" }), stranger: fc.boolean() }),
    { minLength: 1, maxLength: 40 },
  );
  fc.assert(
    fc.property(datagrams, (given) => {
      using attacked = new AttackedEnd("IPv6");
      for (const { bytes, stranger } of given) {
        attacked.hit(bytes.slice(), stranger ? attacked.stranger : attacked.peer);
      }
      assertEquals(attacked.end.queuePair.query().state, "RTS");
      attacked.checkNothingWritten();
    }),
    { numRuns: 100 },
  );
});
