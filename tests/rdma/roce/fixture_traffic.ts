/**
 * One of two programs whose packets capture_fixtures.ts records: `fixture_traffic.ts first|second`, in
 * two guests. The second makes requests of the first, one at a time, so that each has its answer,
 * over IPv4 and then over IPv6; the pairs of queue pairs, in order, are those of {@linkcode scenarios}.
 */
import { TextLineStream } from "@std/streams/text-line-stream";
import type { Access } from "../../../lib/rdma/memory_region.ts";
import type { GidEntry } from "../../../lib/rdma/device.ts";
import { VerbsDevice } from "../../../lib/rdma/verbs/device.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import type { WcStatusName } from "../../../ffi/libibverbs.ts";
import { rxe } from "../../provider.ts";
import { allAccess, ReliableEnd } from "../resources.ts";

const FIRST = "10.9.0.1";
const PORT = 4000;
const PATH_MTU = 256;
const MEMORY_BYTES = 16384;
/** Where the messages that the first receives begin, and how far apart they are. */
const RECEIVES = 8192;
const RECEIVE_BYTES = 1024;
const IMMEDIATE = 0x1234_5678;
/** What a fetch-and-add adds, and a compare-and-swap compares with and stores. */
const ADDEND = 0x0102_0304_0506_0708n;
const SWAPPED = 0xf0e0_d0c0_b0a0_9080n;

/** What one end tells the other of its queue pair and its memory. */
interface Facts {
  readonly gid: string;
  readonly qpn: number;
  readonly psn: number;
  readonly address: number;
  readonly rkey: number;
}

/** Requests on one pair of queue pairs, and what they meet. */
interface Scenario {
  /** What the first permits. */
  readonly access?: readonly Access[];
  /** How many receives the first posts; as many as there are requests, unless told. */
  readonly receives?: number;
  /** Added to the key of the first's memory where it receives into it. */
  readonly wrongLkey?: number;
  /** Added to the key of the first's memory where the second names it. */
  readonly wrongRkey?: number;
  /** Packets that the second's sequence numbers are ahead of what the first awaits. */
  readonly ahead?: number;
  readonly requests: readonly Request[];
  /** How all requests end. */
  readonly status: WcStatusName;
}

interface Request {
  readonly operation: Opcode;
  readonly bytes: number;
  readonly flags?: number;
}

/** Two whole packets and one with 1, 2 or 3 bytes of padding. */
const LONG = 2 * PATH_MTU;

const scenarios: readonly Scenario[] = [
  {
    status: "IBV_WC_SUCCESS",
    requests: [
      { operation: Opcode.SEND, bytes: LONG + 5 },
      { operation: Opcode.SEND, bytes: 0 },
      { operation: Opcode.SEND, bytes: 6, flags: SendFlag.SOLICITED },
      { operation: Opcode.SEND_WITH_IMMEDIATE, bytes: LONG + 7 },
      { operation: Opcode.SEND_WITH_IMMEDIATE, bytes: 8 },
      { operation: Opcode.WRITE, bytes: LONG + 2 },
      { operation: Opcode.WRITE, bytes: 11 },
      { operation: Opcode.WRITE_WITH_IMMEDIATE, bytes: LONG + 1 },
      { operation: Opcode.WRITE_WITH_IMMEDIATE, bytes: 4, flags: SendFlag.SOLICITED },
      { operation: Opcode.READ, bytes: LONG + 3 },
      { operation: Opcode.READ, bytes: 13 },
      { operation: Opcode.FETCH_AND_ADD, bytes: 8 },
      { operation: Opcode.COMPARE_AND_SWAP, bytes: 8 },
    ],
  },
  {
    receives: 0,
    requests: [{ operation: Opcode.SEND, bytes: 1 }],
    status: "IBV_WC_RNR_RETRY_EXC_ERR",
  },
  {
    ahead: 3,
    requests: [{ operation: Opcode.SEND, bytes: 2 }],
    status: "IBV_WC_RETRY_EXC_ERR",
  },
  {
    access: ["LOCAL_WRITE", "REMOTE_WRITE"],
    requests: [{ operation: Opcode.READ, bytes: 3 }],
    status: "IBV_WC_REM_INV_REQ_ERR",
  },
  {
    wrongRkey: 0x100,
    requests: [{ operation: Opcode.WRITE, bytes: 4 }],
    status: "IBV_WC_REM_ACCESS_ERR",
  },
  {
    wrongLkey: 0x100,
    requests: [{ operation: Opcode.SEND, bytes: 5 }],
    status: "IBV_WC_REM_OP_ERR",
  },
];

/** Lines of JSON both ways, as a rendezvous. */
class Peer implements AsyncDisposable {
  readonly #connection: Deno.TcpConn;
  readonly #lines: ReadableStreamDefaultReader<string>;

  constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
    this.#lines = connection.readable.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream()).getReader();
  }

  /** Says something, and hears what the peer said as often. */
  async exchange<T>(value: T): Promise<T> {
    await this.#connection.write(new TextEncoder().encode(`${JSON.stringify(value)}\n`));
    const { value: line } = await this.#lines.read();
    if (line === undefined) throw new Error("the other program has ended");
    return JSON.parse(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lines.cancel();
  }
}

async function meet(isFirst: boolean): Promise<Peer> {
  if (isFirst) {
    using listener = Deno.listen({ hostname: "0.0.0.0", port: PORT });
    return new Peer(await listener.accept());
  }
  for (;;) {
    try {
      return new Peer(await Deno.connect({ hostname: FIRST, port: PORT }));
    } catch (error) {
      if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
    }
  }
}

async function play(scenario: Scenario, gid: GidEntry, isFirst: boolean, peer: Peer) {
  using device = new VerbsDevice(rxe.device);
  using end = new ReliableEnd(device, MEMORY_BYTES);
  end.memory.bytes.forEach((_, at, bytes) => bytes[at] = at + (at >> 8));
  end.init(isFirst ? scenario.access : allAccess);
  const { region: { address, rkey }, queuePair: { qpn }, psn } = end;
  connect(end, gid, await peer.exchange({ gid: gid.gid, qpn, psn, address, rkey }), scenario);
  if (isFirst) postReceives(end, scenario);
  const { address: remote, rkey: key } = await peer.exchange({ address, rkey });
  if (!isFirst) await makeRequests(end, scenario, remote, key + (scenario.wrongRkey ?? 0));
  await peer.exchange("done");
}

function connect(end: ReliableEnd, gid: GidEntry, peer: Facts, { ahead = 0 }: Scenario): void {
  end.queuePair.modify({
    state: "RTR",
    pathMtu: PATH_MTU,
    destQpn: peer.qpn,
    rqPsn: peer.psn,
    maxDestRdAtomic: 4,
    minRnrTimer: 12,
    addressVector: {
      dgid: peer.gid,
      sgidIndex: gid.index,
      hopLimit: 64,
      trafficClass: 0,
      flowLabel: 0,
      serviceLevel: 0,
      dlid: 0,
      isGlobal: true,
      port: 1,
    },
  });
  end.queuePair.modify({
    state: "RTS",
    sqPsn: (end.psn + ahead) & 0xff_ffff,
    // A quarter of a second: emulated guests are slow, and what is sent again is no other packet.
    timeout: 16,
    retryCount: 1,
    rnrRetry: 1,
    maxRdAtomic: 4,
  });
}

function postReceives(end: ReliableEnd, scenario: Scenario): void {
  const { region, receives, queuePair } = end;
  const count = scenario.receives ?? Math.min(scenario.requests.length, receives.capacity);
  for (let index = 0; index < count; index++) {
    const address = region.address + RECEIVES + index % 8 * RECEIVE_BYTES;
    const lkey = region.lkey + (scenario.wrongLkey ?? 0);
    receives.prepare(index, index).buffer(index, address, RECEIVE_BYTES, lkey);
  }
  if (count > 0) queuePair.postReceive(receives, 0, count);
}

async function makeRequests(
  { region, sends, queuePair, queue }: ReliableEnd,
  { requests, status }: Scenario,
  remote: number,
  rkey: number,
): Promise<void> {
  for (const { operation, bytes, flags = SendFlag.NONE } of requests) {
    sends.prepare(0, 0, operation, SendFlag.SIGNALED | flags)
      .remote(0, remote, rkey).immediate(0, IMMEDIATE);
    if (operation === Opcode.FETCH_AND_ADD) sends.atomic(0, remote, rkey, ADDEND);
    if (operation === Opcode.COMPARE_AND_SWAP) sends.atomic(0, remote, rkey, ADDEND, SWAPPED);
    if (bytes > 0) sends.buffer(0, region.address, bytes, region.lkey);
    queuePair.postSend(sends);
    await queue.next();
    const ended = queue.completions.status(0);
    if (ended !== status) {
      throw new Error(`${operation} of ${bytes} bytes: ${ended}, not ${status}`);
    }
  }
}

/** The RoCE v2 GIDs that are in use: over IPv4, and over IPv6. */
function gids(): GidEntry[] {
  using device = new VerbsDevice(rxe.device);
  return ["::ffff:", "fd09:"].map((prefix) =>
    device.ports()[0]!.gids.find(({ gid, type }) => type === "RoCE v2" && gid.startsWith(prefix))!
  );
}

if (import.meta.main) {
  const isFirst = Deno.args[0] === "first";
  await using peer = await meet(isFirst);
  for (const gid of gids()) {
    for (const scenario of scenarios) await play(scenario, gid, isFirst, peer);
  }
}
