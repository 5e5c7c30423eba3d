import { assert, assertEquals, assertThrows } from "@std/assert";
import { clockUnknown, column, parsePerftest, PerftestError } from "./perftest.ts";

/** What the client of perftest 6.06 prints on Soft-RoCE. */
const bandwidth =
  `---------------------------------------------------------------------------------------
                    RDMA_Write BW Test
 Dual-port       : OFF\t\tDevice         : rxe0
 Number of qps   : 1\t\tTransport type : IB
 Connection type : RC\t\tUsing SRQ      : OFF
 PCIe relax order: ON
 ibv_wr* API     : OFF
 TX depth        : 128
 CQ Moderation   : 1
 Mtu             : 4096[B]
 Link type       : Ethernet
 GID index       : 1
 Max inline data : 0[B]
 rdma_cm QPs\t : OFF
 Data ex. method : Ethernet
---------------------------------------------------------------------------------------
 local address: LID 0000 QPN 0x0012 PSN 0x125c29 RKey 0x000315 VAddr 0x005618458de000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:09:00:01
 remote address: LID 0000 QPN 0x0011 PSN 0xf562a2 RKey 0x000220 VAddr 0x00563cfb896000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:09:00:01
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      300              60.84              27.58  \t\t   0.000441
---------------------------------------------------------------------------------------
`;

const latency =
  `---------------------------------------------------------------------------------------
                    RDMA_Write Latency Test
 Dual-port       : OFF\t\tDevice         : rxe0
 Number of qps   : 1\t\tTransport type : IB
 Connection type : RC\t\tUsing SRQ      : OFF
 PCIe relax order: OFF
 ibv_wr* API     : OFF
 TX depth        : 1
 Mtu             : 4096[B]
 Link type       : Ethernet
 GID index       : 1
 Max inline data : 0[B]
 rdma_cm QPs\t : OFF
 Data ex. method : Ethernet
---------------------------------------------------------------------------------------
 local address: LID 0000 QPN 0x0014 PSN 0xada4fa RKey 0x0005bc VAddr 0x00560c6957a000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:09:00:01
 remote address: LID 0000 QPN 0x0013 PSN 0xc9f82c RKey 0x0004ea VAddr 0x005626ab123000
 GID: 00:00:00:00:00:00:00:00:00:00:255:255:10:09:00:01
---------------------------------------------------------------------------------------
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec] 
 64      2000          11.34          5866.66      11.76    \t       41.42       \t309.81 \t\t1130.50 \t\t5858.10
---------------------------------------------------------------------------------------
`;

Deno.test("parsePerftest reads the settings and the average of ib_write_bw", () => {
  const report = parsePerftest(bandwidth);
  const { values: _, ...settings } = report;
  assertEquals(settings, {
    mtu: 4096,
    txDepth: 128,
    cqModeration: 1,
    maxInline: 0,
    size: 65536,
    iterations: 300,
  });
  assertEquals(column(report, "BW average[MB/sec]"), 27.58);
  assertEquals(column(report, "BW peak[MB/sec]"), 60.84);
});

Deno.test("parsePerftest reads the columns of ib_write_lat, whose names have spaces and percents", () => {
  const report = parsePerftest(latency);
  assertEquals(report.txDepth, 1);
  assertEquals(report.iterations, 2000);
  assertEquals(column(report, "t_typical[usec]"), 11.76);
  assertEquals(column(report, "99% percentile[usec]"), 1130.5);
  assertEquals(column(report, "99.9% percentile[usec]"), 5858.1);
});

Deno.test("parsePerftest refuses output without a table, without a setting, or with a number missing", () => {
  const truncated = latency.replace("11.76", "");
  const withoutMtu = bandwidth.replace(/^ Mtu.*$/m, "");
  for (const output of ["", "Couldn't connect to 10.9.0.1:18515\n", truncated, withoutMtu]) {
    assertThrows(() => parsePerftest(output), PerftestError);
  }
});

Deno.test("column names the columns there are when it is asked for another", () => {
  const error = assertThrows(() => column(parsePerftest(bandwidth), "t_avg[usec]"), PerftestError);
  assert(error.message.includes("BW average[MB/sec]"), error.message);
});

Deno.test("parsePerftest refuses the row of a perftest that knows no clock rate", () => {
  const row = " 64      10000          inf            inf          inf      \t       inf" +
    "         \t-nan   \t\tinf     \t\tinf    ";
  assertThrows(() => parsePerftest(latency.replace(/^ 64 .*$/m, row)), PerftestError);
});

Deno.test("clockUnknown knows what perftest says when it cannot calibrate its clock", () => {
  assert(clockUnknown("Correlation coefficient r^2: 0.83251 < 0.9\n"));
  assert(!clockUnknown("Conflicting CPU frequency values detected: 2100.0 != 3400.0.\n"));
});
