/**
 * Makes the fixtures again: `deno run -A tests/rdma/roce/capture_fixtures.ts`. Two guests with rdma_rxe
 * run fixture_traffic.ts; each packet is kept once, with what tshark reads in it.
 */
import { encodeHex } from "@std/encoding/hex";
import { ensurePackages, PACKAGES } from "../../../.ci/packages.ts";
import { fields } from "../../vm/host/capture.ts";
import { fetchModules } from "../../vm/modules.ts";
import { runOnWire } from "../../vm/wire.ts";
import { type Fixture, fixturePath, IP_VERSIONS, type IpVersion } from "./fixtures.ts";

const PROGRAM = "tests/rdma/roce/fixture_traffic.ts";
const COMMENT =
  "Packets of rdma_rxe (Linux 6.1), recorded by capture_fixtures.ts, each once, in the order of the " +
  "wire; all but ip is what tshark reads in them. Addresses, keys and queue pairs are the guests'.";

const ETHERNET_BYTES = 14;
const BTH_BYTES = 12;
const ICRC_BYTES = 4;
/** Headers after the BTH, some of which a packet has, by tshark's names, and their bytes. */
const EXTENDED_HEADERS = [
  ["reth", 16],
  ["atomiceth", 28],
  ["aeth", 4],
  ["atomicacketh", 8],
  ["immdt", 4],
] as const;

const FIELDS = [
  ...["frame.number", "udp.payload", "infiniband.bth.opcode", "infiniband.bth.se"],
  ...["infiniband.bth.m", "infiniband.bth.padcnt", "infiniband.bth.p_key"],
  ...["infiniband.bth.destqp", "infiniband.bth.a", "infiniband.bth.psn"],
  ...EXTENDED_HEADERS.map(([name]) => `infiniband.${name}` as const),
  ...["infiniband.reth.va", "infiniband.reth.r_key"],
  ...["infiniband.reth.dmalen", "infiniband.atomiceth.swapdt", "infiniband.atomiceth.cmpdt"],
  ...["infiniband.aeth.syndrome", "infiniband.aeth.msn", "infiniband.atomicacketh.origremdt"],
] as const;

type Field = typeof FIELDS[number];

async function record(): Promise<Record<IpVersion, Fixture[]>> {
  await fetchModules(PROGRAM);
  const resultDirectory = await Deno.makeTempDir();
  try {
    const guest = (name: string) => ({
      script: `deno run -A --no-check --cached-only ${PROGRAM} ${name}`,
      timeout: 180,
    });
    const { first, second, capture } = await runOnWire({
      resultDirectory,
      first: guest("first"),
      second: guest("second"),
    });
    for (const { status, output } of [first, second]) if (status !== 0) throw new Error(output);
    const [ipv4, ipv6] = await Promise.all(["ip", "ipv6"].map((filter) => read(capture, filter)));
    return { IPv4: ipv4!, IPv6: ipv6! };
  } finally {
    await Deno.remove(resultDirectory, { recursive: true });
  }
}

/** The RoCEv2 packets over one version of IP, without those that were sent again. */
async function read(capture: string, filter: string): Promise<Fixture[]> {
  const packets = frames(await Deno.readFile(capture));
  const rows = await fields(capture, `${filter} && udp.dstport == 4791`, FIELDS);
  const records = rows.map((row) =>
    Object.fromEntries(FIELDS.map((field, index) => [field, row[index]!])) as Record<Field, string>
  );
  const first = new Map<string, Record<Field, string>>();
  for (const record of records) {
    // Over IPv4 what is sent again has another IP ID, and so another ICRC.
    const content = record["udp.payload"].slice(0, -2 * ICRC_BYTES);
    if (!first.has(content)) first.set(content, record);
  }
  return [...first.values()].map((record) =>
    fixture(packets[Number(record["frame.number"]) - 1]!, record)
  );
}

/** The frames of a pcap file in this machine's byte order. */
function frames(file: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  const view = new DataView(file.buffer);
  const found: Uint8Array<ArrayBuffer>[] = [];
  for (let at = 24; at < file.length;) {
    const length = view.getUint32(at + 8, true);
    found.push(file.subarray(at + 16, at + 16 + length));
    at += 16 + length;
  }
  return found;
}

function fixture(frame: Uint8Array<ArrayBuffer>, record: Record<Field, string>): Fixture {
  const bth = (name: "opcode" | "padcnt" | "p_key" | "destqp" | "psn") =>
    Number(record[`infiniband.bth.${name}`]);
  const isSet = (name: "se" | "m" | "a") => record[`infiniband.bth.${name}`] === "1";
  const headerBytes = EXTENDED_HEADERS.filter(([name]) => record[`infiniband.${name}`] !== "")
    .reduce((sum, [, bytes]) => sum + bytes, BTH_BYTES);
  const padBytes = bth("padcnt");
  return {
    ip: encodeHex(frame.subarray(ETHERNET_BYTES)),
    opcode: bth("opcode"),
    solicited: isSet("se"),
    migrated: isSet("m"),
    padBytes,
    pkey: bth("p_key"),
    destQpn: bth("destqp"),
    ackRequested: isSet("a"),
    psn: bth("psn"),
    payloadBytes: record["udp.payload"].length / 2 - headerBytes - padBytes - ICRC_BYTES,
    ...extendedHeaders(record),
  };
}

function extendedHeaders(record: Record<Field, string>): Partial<Fixture> {
  const address = record["infiniband.reth.va"];
  const rkey = Number(record["infiniband.reth.r_key"]);
  const syndrome = record["infiniband.aeth.syndrome"];
  const original = record["infiniband.atomicacketh.origremdt"];
  const immediate = record["infiniband.immdt"];
  return {
    ...(record["infiniband.reth"] !== "" && {
      reth: { address, rkey, dmaLength: Number(record["infiniband.reth.dmalen"]) },
    }),
    ...(record["infiniband.atomiceth"] !== "" && {
      atomicEth: {
        address,
        rkey,
        swap: record["infiniband.atomiceth.swapdt"],
        compare: record["infiniband.atomiceth.cmpdt"],
      },
    }),
    ...(syndrome !== "" && {
      aeth: { syndrome: Number(syndrome), msn: Number(record["infiniband.aeth.msn"]) },
    }),
    ...(original !== "" && { atomicAckEth: { original } }),
    // tshark names these four bytes twice, and so separates them by a comma.
    ...(immediate !== "" && { immediate: parseInt(immediate.split(",")[0]!, 16) }),
  };
}

if (import.meta.main) {
  await ensurePackages([...PACKAGES.guest, ...PACKAGES.wire], { why: "to record packets" });
  const recorded = await record();
  for (const version of IP_VERSIONS) {
    const file = { comment: COMMENT, packets: recorded[version] };
    await Deno.writeTextFile(fixturePath(version), `${JSON.stringify(file, null, 2)}\n`);
    console.log(`${file.packets.length} packets over ${version}`);
  }
}
