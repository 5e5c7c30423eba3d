import { assert, assertEquals } from "@std/assert";
import { runOnWire } from "../wire.ts";

/** Bash: perftest with 64 KiB WRITEs at path MTU 4096, over the IPv6 GIDs. */
const WRITES = "ib_write_bw -d rxe0 -x 2 -m 4096 -s 65536 -n 100 -t 16 -F";

Deno.test("two guests write to each other's memory at path MTU 4096, and the wire is recorded", async () => {
  const resultDirectory = await Deno.makeTempDir();
  try {
    const { first, second, capture } = await runOnWire({
      resultDirectory,
      first: { script: WRITES, timeout: 120 },
      second: { script: `until ${WRITES} 10.9.0.1; do sleep 0.2; done`, timeout: 120 },
    });
    assertEquals(first.status, 0, first.output);
    assertEquals(second.status, 0, second.output);
    // RC RDMA WRITE middle: 4096 bytes of payload behind Ethernet, IPv6, UDP and BTH, and the ICRC.
    const middles = await frames(capture, "ipv6.src == fd09::2 && infiniband.bth.opcode == 7");
    assert(middles.length >= 100 * 14, `only ${middles.length} packets of WRITEs are recorded`);
    assertEquals(new Set(middles), new Set([14 + 40 + 8 + 12 + 4096 + 4]));
    // RC acknowledge.
    assert(
      (await frames(capture, "ipv6.src == fd09::1 && infiniband.bth.opcode == 17")).length > 0,
    );
  } finally {
    await Deno.remove(resultDirectory, { recursive: true });
  }
});

/** Lengths of the frames in a capture that tshark's filter lets through. */
async function frames(capture: string, filter: string): Promise<number[]> {
  const { success, stdout, stderr } = await new Deno.Command("tshark", {
    args: ["-r", capture, "-Y", filter, "-T", "fields", "-e", "frame.len"],
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).split("\n").filter(Boolean).map(Number);
}
