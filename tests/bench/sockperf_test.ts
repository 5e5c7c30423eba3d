import { assertEquals, assertThrows } from "@std/assert";
import { ProgramError } from "./server_and_client.ts";
import { parseSockperf } from "./sockperf.ts";

/** What the client of sockperf 3.7 prints at its end, shortened. */
const output = `sockperf: Summary: Latency is 32.730 usec
sockperf: Total 23577 observations; each percentile contains 235.77 observations
sockperf: ---> <MAX> observation = 57565.913
sockperf: ---> percentile 99.999 = 57565.913
sockperf: ---> percentile 90.000 =    4.136
sockperf: ---> percentile 50.000 =    3.900
sockperf: ---> percentile 25.000 =    3.840
`;

Deno.test("parseSockperf gives the median, not the mean that outliers move", () => {
  assertEquals(parseSockperf(output), 3.9);
});

Deno.test("parseSockperf refuses output without a median", () => {
  assertThrows(() => parseSockperf("sockperf: No messages were received"), ProgramError);
});
