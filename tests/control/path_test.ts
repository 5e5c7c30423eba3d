import { assertEquals, assertThrows } from "@std/assert";
import type { QueuePairNumbers } from "../../lib/control/messages.ts";
import { agreePath, checkStandardPort, type PathEnd } from "../../lib/control/path.ts";
import { ProtocolError, RdmaError, VerbsealError } from "../../lib/errors.ts";

function end(provider: PathEnd["provider"], numbers: Partial<QueuePairNumbers> = {}): PathEnd {
  return {
    provider,
    numbers: {
      epoch: 0,
      qpn: 17,
      psn: 1,
      gid: "::ffff:10.9.0.1",
      gidType: "RoCE v2",
      lid: 0,
      mtu: 4096,
      maxRdAtomic: 16,
      maxDestRdAtomic: 16,
      receives: 32,
      ...numbers,
    },
  };
}

const device = end("verbs");
const embedded = end("roce", { udpPort: 4791 });
const elsewhere = end("roce", { udpPort: 40000 });

const meetings: [what: string, one: PathEnd, other: PathEnd][] = [
  ["two devices", device, device],
  ["a device and the embedded provider", device, embedded],
  ["two embedded providers on any UDP ports", elsewhere, elsewhere],
  [
    "two embedded providers on loopback",
    end("roce", { udpPort: 4791, gid: "::ffff:127.0.0.1" }),
    end("roce", { udpPort: 4791, gid: "::ffff:127.0.0.2" }),
  ],
  [
    "two InfiniBand ports with any GIDs",
    end("verbs", { gidType: "InfiniBand", gid: "fe80::1", lid: 1 }),
    end("verbs", { gidType: "InfiniBand", gid: "::ffff:10.9.0.2", lid: 2 }),
  ],
];

for (const [what, one, other] of meetings) {
  Deno.test(`${what} have a path, the same from both sides`, () => {
    assertEquals(agreePath(one, other), agreePath(other, one));
  });
}

Deno.test("a path has the smaller MTU, and READs as the one allows and the other serves", () => {
  const one = end("verbs", { mtu: 1024, maxRdAtomic: 16, maxDestRdAtomic: 4 });
  const other = end("roce", { udpPort: 4791, mtu: 4096, maxRdAtomic: 2, maxDestRdAtomic: 8 });
  assertEquals(agreePath(one, other), { mtu: 1024, maxRdAtomic: 8, maxDestRdAtomic: 2 });
  assertEquals(agreePath(other, one), { mtu: 1024, maxRdAtomic: 2, maxDestRdAtomic: 8 });
});

const refusals: [what: string, one: PathEnd, other: PathEnd, code: string, class_: unknown][] = [
  [
    "an embedded provider that a device cannot send to",
    ...[device, elsewhere, "udp_port_taken", RdmaError] as const,
  ],
  [
    "a device that says it has a UDP port",
    ...[end("verbs", { udpPort: 4791 }), device, "udp_port", ProtocolError] as const,
  ],
  [
    "an embedded provider that does not tell its UDP port",
    ...[end("roce"), embedded, "udp_port", ProtocolError] as const,
  ],
  [
    "an embedded provider on InfiniBand",
    ...[
      end("roce", { udpPort: 4791, gidType: "InfiniBand" }),
      end("verbs", { gidType: "InfiniBand" }),
      "gid_type",
      ProtocolError,
    ] as const,
  ],
  [
    "GIDs of different types",
    ...[end("verbs", { gidType: "InfiniBand" }), embedded, "gid_type", RdmaError] as const,
  ],
  [
    "devices with GIDs of IPv4 and IPv6",
    device,
    end("verbs", { gid: "fd09::1" }),
    "gid_family",
    RdmaError,
  ],
  [
    "embedded providers with GIDs of IPv4 and IPv6",
    ...[embedded, end("roce", { udpPort: 4791, gid: "::1" }), "gid_family", RdmaError] as const,
  ],
  [
    "an embedded provider on the other's loopback address",
    embedded,
    end("roce", { udpPort: 5353, gid: "::ffff:127.0.0.1" }),
    "gid_scope",
    RdmaError,
  ],
  [
    "the same over IPv6",
    end("roce", { udpPort: 4791, gid: "fd09::1" }),
    end("roce", { udpPort: 5353, gid: "::1" }),
    "gid_scope",
    RdmaError,
  ],
];

for (const [what, one, other, code, class_] of refusals) {
  Deno.test(`both sides refuse ${what}, in the same words`, () => {
    const [here, there] = [[one, other], [other, one]].map(([local, remote]) =>
      assertThrows(() => agreePath(local!, remote!), VerbsealError)
    );
    assertEquals([here?.code, here?.constructor], [code, class_]);
    assertEquals([there?.code, there?.message], [code, here?.message]);
  });
}

Deno.test("whoever has not got the UDP port of RoCE is told whose it is and what else to use", () => {
  checkStandardPort("::ffff:10.9.0.1", undefined);
  checkStandardPort("::ffff:10.9.0.1", 4791);
  const error = assertThrows(() => checkStandardPort("::ffff:10.9.0.1", 40000), RdmaError);
  assertEquals(
    error.message,
    "the embedded provider on 10.9.0.1 has UDP port 40000, and RDMA devices send to 4791 only",
  );
  assertEquals(error.remedy.includes("rdma_rxe"), true);
});
