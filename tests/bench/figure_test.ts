import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { type Figure, jsonLine, median, passes, type Subject, summarize, table } from "./figure.ts";

const subject: Subject = {
  bench: "verbs.write.bw",
  size: 65536,
  peer: "ib_write_bw",
  unit: "MB/s",
  settings: "RC",
};

Deno.test("median is the middle value by size, not by place or by text", () => {
  assertEquals(median([100, 9, 20]), 20);
  assertEquals(median([4]), 4);
});

Deno.test("median of an even number of values is the mean of the middle two", () => {
  assertEquals(median([4, 1, 3, 2]), 2.5);
});

Deno.test("median of nothing is an error", () => {
  assertThrows(() => median([]), RangeError);
});

Deno.test("median leaves its argument as it was", () => {
  const values = [3, 1, 2];
  median(values);
  assertEquals(values, [3, 1, 2]);
});

Deno.test("summarize divides Verbseal's median by the peer's, whatever the outliers", () => {
  const figure = summarize(subject, [57, 1, 58.5, 57.5, 900], [60, 60, 2, 61, 59]);
  assertEquals([figure.verbseal, figure.peerValue, figure.ratio], [57.5, 60, 0.958]);
});

Deno.test("jsonLine has the documented fields in their order and no others", () => {
  assertEquals(
    jsonLine(summarize(subject, [57.4567], [58])),
    '{"bench":"verbs.write.bw","size":65536,"verbseal":57.457,"peer":"ib_write_bw",' +
      '"peerValue":58,"unit":"MB/s","ratio":0.991}',
  );
});

Deno.test("a figure without a peer has no ratio, and says how many queue pairs it is about", () => {
  const alone: Subject = {
    bench: "roce.qps.lat",
    size: 64,
    queuePairs: 512,
    peer: null,
    unit: "us",
    settings: "",
  };
  assertEquals(
    jsonLine(summarize(alone, [9, 12, 10])),
    '{"bench":"roce.qps.lat","size":64,"queuePairs":512,"verbseal":10,"peer":null,' +
      '"peerValue":null,"unit":"us","ratio":null}',
  );
});

Deno.test("a figure about TLS says who speaks it, and of how many sessions it is", () => {
  const sessions: Subject = {
    bench: "tls.sessions",
    size: 64,
    backend: "openssl",
    sessions: 5000,
    peer: null,
    unit: "s",
    settings: "",
  };
  const figure = summarize(sessions, [7]);
  assertEquals(
    jsonLine(figure),
    '{"bench":"tls.sessions","size":64,"backend":"openssl","sessions":5000,"verbseal":7,' +
      '"peer":null,"peerValue":null,"unit":"s","ratio":null}',
  );
  assertEquals(table([figure]).includes("tls.sessions openssl"), true);
});

Deno.test("a figure about transports says which one it is", () => {
  const figure = summarize(
    {
      bench: "ktls.put",
      size: 64,
      transport: "rdma, unsealed",
      peer: null,
      unit: "s/GiB",
      settings: "",
    },
    [2],
  );
  assertEquals(
    jsonLine(figure),
    '{"bench":"ktls.put","size":64,"transport":"rdma, unsealed","verbseal":2,"peer":null,' +
      '"peerValue":null,"unit":"s/GiB","ratio":null}',
  );
  assertEquals(table([figure]).includes("ktls.put rdma, unsealed"), true);
});

Deno.test("table has the settings once and a row for each figure", () => {
  const bandwidth: Figure = summarize(subject, [57], [60]);
  const large: Figure = summarize({ ...subject, size: 1_048_576 }, [58], [58]);
  const { peer: _, ...rest } = subject;
  const alone: Figure = summarize({ ...rest, peer: null, queuePairs: 64 }, [50]);
  assertEquals(
    table([bandwidth, large, alone]),
    `verbs.write.bw: RC

bench             bytes  QPs  Verbseal   peer               unit  ratio
verbs.write.bw    65536    1     57.00  60.00  ib_write_bw  MB/s  0.950
verbs.write.bw  1048576    1     58.00  58.00  ib_write_bw  MB/s  1.000
verbs.write.bw    65536   64     50.00                      MB/s`,
  );
});

Deno.test("a figure passes if its ratio is what it has to be at least, and the table says so", () => {
  const bounded = { ...subject, leastRatio: 0.9 };
  const [enough, tooLittle] = [summarize(bounded, [9], [10]), summarize(bounded, [8.9], [10])];
  assertEquals([enough, tooLittle, summarize(subject, [1], [10])].map(passes), [true, false, true]);
  assertMatch(table([enough]), / 0\.900, at least 0\.9$/);
  assertMatch(table([tooLittle]), / 0\.890 IS BELOW 0\.9$/);
});
