import { assertEquals, assertThrows } from "@std/assert";
import { parseIperf3 } from "./iperf3.ts";
import { ProgramError } from "./server_and_client.ts";

/** What the client of iperf3 3.12 reports at its end, shortened. */
const report = {
  end: {
    sum_sent: { seconds: 2.000216, bytes: 4294967296, bits_per_second: 17178014358.5 },
    sum_received: { seconds: 2.05, bytes: 4294967296, bits_per_second: 16777216000 },
  },
};

Deno.test("parseIperf3 gives what the receiver got, in MB of 2^20 bytes", () => {
  assertEquals(parseIperf3(JSON.stringify(report)), 2000);
});

Deno.test("parseIperf3 refuses a report without a rate", () => {
  const error = { error: "unable to connect to server: Connection refused" };
  assertThrows(() => parseIperf3(JSON.stringify(error)), ProgramError, "Connection refused");
});
