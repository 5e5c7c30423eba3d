import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { libc } from "../../../ffi/libc.ts";
import type { PathMtu } from "../../../lib/rdma/address.ts";
import type { QueuePairAttributes } from "../../../lib/rdma/queue_pair.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { connectEnds, type IpVersion, SimulatedEnd, SimulatedHost } from "./simulated_end.ts";
import { type Faults, NO_FAULTS, SimulatedNetwork } from "./simulated_network.ts";
import {
  checkMemory,
  Direction,
  END_BYTES,
  initial,
  LONGEST,
  LONGEST_MESSAGE,
  MOST_REQUESTS,
  type Request,
} from "./transport_model.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const psns = fc.oneof(
  fc.integer({ min: 0, max: 0xff_ffff }),
  fc.integer({ min: 0xff_fff0, max: 0xff_ffff }),
);

const operations: fc.Arbitrary<Pick<Request, "operation" | "bytes">> = fc.oneof(
  fc.record({
    operation: fc.constantFrom(Opcode.SEND, Opcode.SEND_WITH_IMMEDIATE),
    bytes: fc.oneof(fc.nat(64), fc.nat(LONGEST_MESSAGE)),
  }),
  fc.record({
    operation: fc.constantFrom(Opcode.WRITE, Opcode.WRITE_WITH_IMMEDIATE, Opcode.READ),
    bytes: fc.oneof(fc.nat(64), fc.nat(LONGEST_MESSAGE), fc.nat(LONGEST)),
  }),
  fc.record({
    operation: fc.constantFrom(Opcode.FETCH_AND_ADD, Opcode.COMPARE_AND_SWAP),
    bytes: fc.constant(8),
  }),
);

const requests = fc.array(
  fc.tuple(
    operations,
    fc.record({
      signaled: fc.boolean(),
      fenced: fc.boolean(),
      inline: fc.boolean(),
      equal: fc.boolean(),
      pause: fc.constantFrom(0, 0, 0, 0.1, 5),
    }),
  ).map(([operation, more]): Request => ({ ...operation, ...more })),
  { maxLength: MOST_REQUESTS },
);

/** A pair of queue pairs, on two of three hosts. */
const connections = fc.record({
  hosts: fc.constantFrom([0, 1], [0, 2], [2, 1]) as fc.Arbitrary<[number, number]>,
  psns: fc.tuple(psns, psns),
  requests: fc.tuple(requests, requests),
  pathMtu: fc.constantFrom<PathMtu[]>(256, 1024),
  attributes: fc.record({
    timeout: fc.integer({ min: 8, max: 14 }),
    retryCount: fc.integer({ min: 1, max: 7 }),
    rnrRetry: fc.integer({ min: 1, max: 7 }),
    minRnrTimer: fc.integer({ min: 1, max: 18 }),
    maxRdAtomic: fc.integer({ min: 1, max: 4 }),
  }),
  receivesAtOnce: fc.nat(MOST_REQUESTS),
  receiveInterval: fc.constantFrom(0.1, 3),
});

type Connection = typeof connections extends fc.Arbitrary<infer Value> ? Value : never;

const scenarios = fc.record({
  seed: fc.integer(),
  version: fc.constantFrom<IpVersion[]>("IPv4", "IPv6"),
  connections: fc.array(connections, { minLength: 1, maxLength: 3 }),
});

type Scenario = typeof scenarios extends fc.Arbitrary<infer Value> ? Value : never;

/** Now and then nothing, often a little, and sometimes a lot. */
const probability = fc.oneof(fc.constant(0), fc.double({ min: 0, max: 0.05, noNaN: true }), {
  arbitrary: fc.double({ min: 0, max: 0.5, noNaN: true }),
  weight: 1,
});

const badNetworks: fc.Arbitrary<Faults> = fc.record({
  loss: probability,
  duplication: probability,
  corruption: probability,
  latency: fc.constantFrom(0.01, 0.5, 5),
  jitter: fc.constantFrom(0, 0.01, 1, 20),
  interval: fc.constantFrom(0, 0.1, 2),
  refusal: probability,
});

/** Runs a scenario to its end and checks all; the statuses that requests ended with. */
function run(scenario: Scenario, faults: Faults): string[] {
  using resources = new DisposableStack();
  const network = new SimulatedNetwork(faults, scenario.seed);
  const hosts = [1, 2, 3].map((number) =>
    resources.use(new SimulatedHost(network, number, scenario.version))
  );
  const ends: SimulatedEnd[] = [];
  const directions = scenario.connections.flatMap((connection) => {
    const [one, other] = connection.hosts.map((host, index) =>
      resources.use(new SimulatedEnd(hosts[host]!, END_BYTES, connection.psns[index]!))
    ) as [SimulatedEnd, SimulatedEnd];
    ends.push(one, other);
    return connect(network, connection, one, other);
  });

  network.run(hosts.map(({ port }) => port), () => ends.forEach((end) => end.collect()));

  const changes = directions.flatMap((direction) => direction.check());
  for (const end of ends) checkMemory(end, changes);
  assertEquals(hosts.flatMap(({ events }) => events), []);
  return ends.flatMap(({ sent }) => sent.map(({ status }) => status));
}

function connect(
  network: SimulatedNetwork,
  connection: Connection,
  one: SimulatedEnd,
  other: SimulatedEnd,
): Direction[] {
  const { pathMtu, attributes, receivesAtOnce, receiveInterval } = connection;
  for (const end of [one, other]) end.memory.bytes.set(initial(end));
  connectEnds(one, other, pathMtu, { ...attributes, maxDestRdAtomic: attributes.maxRdAtomic });
  const directions = [
    new Direction(one, other, connection.requests[0]),
    new Direction(other, one, connection.requests[1]),
  ];
  for (const direction of directions) {
    direction.postReceives(network, receivesAtOnce, receiveInterval);
    direction.postSends(network);
  }
  return directions;
}

/** All connections of a scenario with other attributes. */
function withAttributes(scenario: Scenario, attributes: Partial<QueuePairAttributes>): Scenario {
  return {
    ...scenario,
    connections: scenario.connections.map((connection) => ({
      ...connection,
      attributes: { ...connection.attributes, ...attributes },
    })),
  };
}

/** More than all faults but loss and corruption can take, with RNR retries for ever. */
const PATIENT = { timeout: 18, retryCount: 7, rnrRetry: 7 } as const;

/** A counterexample is made smaller for a minute, not for ever. */
const runs = (numRuns: number) => ({ numRuns, interruptAfterTimeLimit: 60_000 });

const isSuccess = (status: string) => status === "IBV_WC_SUCCESS";

Deno.test("over a network with any faults, all that requests ask for is done once and in order, or the queue pair ends in ERR and says why", () => {
  fc.assert(
    fc.property(scenarios, badNetworks, (scenario, faults) => void run(scenario, faults)),
    runs(200),
  );
});

Deno.test("over a good network all requests succeed", () => {
  fc.assert(
    fc.property(scenarios, (scenario) => {
      assert(run(withAttributes(scenario, PATIENT), NO_FAULTS).every(isSuccess));
    }),
    runs(60),
  );
});

Deno.test("packets that come twice, late or when the wire takes them do no harm", () => {
  const faults = fc.record({
    duplication: fc.double({ min: 0, max: 1, noNaN: true }),
    latency: fc.constantFrom(0.01, 1, 20),
    refusal: fc.double({ min: 0, max: 0.5, noNaN: true }),
  });
  fc.assert(
    fc.property(scenarios, faults, (scenario, drawn) => {
      const statuses = run(withAttributes(scenario, PATIENT), { ...NO_FAULTS, ...drawn });
      assert(statuses.every(isSuccess));
    }),
    runs(60),
  );
});

Deno.test("over a network that loses, corrupts and reorders some packets in a hundred all requests succeed", () => {
  const faults = { ...NO_FAULTS, loss: 0.01, corruption: 0.01, duplication: 0.02, jitter: 0.02 };
  fc.assert(
    fc.property(scenarios, (scenario) => {
      assert(run(withAttributes(scenario, PATIENT), faults).every(isSuccess));
    }),
    runs(60),
  );
});

for (const retryCount of [0, 1, 7]) {
  Deno.test(`where all is lost, a request ends with IBV_WC_RETRY_EXC_ERR, and its first packet was sent again for a retry count of ${retryCount}`, () => {
    using resources = new DisposableStack();
    const network = new SimulatedNetwork({ ...NO_FAULTS, loss: 1 }, 1);
    const [one, other] = [1, 2].map((number) => {
      const host = resources.use(new SimulatedHost(network, number, "IPv4"));
      return resources.use(new SimulatedEnd(host, 4096, number));
    }) as [SimulatedEnd, SimulatedEnd];
    connectEnds(one, other, 1024, { timeout: 14, retryCount });
    const times: number[] = [];
    network.onPacket = () => times.push(network.now);
    for (const wrId of [1, 2]) {
      one.sends.prepare(wrId, wrId, Opcode.SEND, SendFlag.SIGNALED)
        .buffer(wrId, one.region.address, 0, one.region.lkey);
    }
    one.queuePair.postSend(one.sends, 1, 2);

    network.run([one.host.port, other.host.port], () => one.collect());

    // 4.096 µs × 2^14.
    const timeout = 67.108864;
    const tries = Array.from({ length: retryCount + 1 }, (_, index) => index * timeout);
    const rounded = (time: number) => Math.round(time * 1000);
    assertEquals(times.map(rounded), tries.map(rounded));
    assertEquals(rounded(network.now), rounded((retryCount + 1) * timeout));
    assertEquals(one.sent.map(({ wrId, status }) => [wrId, status]), [
      [1, "IBV_WC_RETRY_EXC_ERR"],
      [2, "IBV_WC_WR_FLUSH_ERR"],
    ]);
    assertEquals(one.queuePair.state, "ERR");
  });
}
