import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { RdmaError } from "../../lib/errors.ts";
import { gidOfAddress } from "../../lib/rdma/address.ts";
import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import { resolveLocal } from "../../lib/rdma/verbs/address_resolution.ts";
import {
  CmListener,
  connect,
  type ConnectOptions,
  DEFAULT_CM_PORT,
  type IncomingConnection,
  type ListenOptions,
  type OutgoingConnection,
} from "../../lib/rdma/verbs/connection_manager.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import type { FromQueuePairWorker, ToQueuePairWorker } from "./queue_pair_worker.ts";
import { rxe } from "../provider.ts";
import { ReliableEnd, verbsTest } from "../rdma/resources.ts";

const { address } = rxe;
const port = DEFAULT_CM_PORT;
const v4Port = { device: rxe.device, port: 1, gid: "::ffff:10.9.0.1" };

/** Queue pairs and identifiers of this process, and its descriptors of the connection manager. */
async function held(): Promise<Record<string, number>> {
  const { stdout } = await new Deno.Command("rdma", { args: ["resource", "show"] }).output();
  const line = new TextDecoder().decode(stdout);
  const count = (name: string) => Number(new RegExp(`\\b${name} (\\d+)`).exec(line)![1]);
  let channels = 0;
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      if (Deno.readLinkSync(`/proc/self/fd/${name}`).endsWith("/rdma_cm")) channels++;
    } catch (error) {
      // The descriptor of the directory itself.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return { qp: count("qp"), mr: count("mr"), cm_id: count("cm_id"), channels };
}

/** A test after which nothing more is held than before, whatever happened in it. */
function cmTest(name: string, run: () => void | Promise<void>): void {
  verbsTest(`connection manager: ${name}`, async () => {
    const before = await held();
    assertEquals(before.channels, 0);
    await run();
    assertEquals(await held(), before);
  });
}

/** A listener whose requests are taken one after another. */
class Listening implements Disposable {
  readonly listener: CmListener;
  readonly #requests: IncomingConnection[] = [];
  #wanted?: PromiseWithResolvers<void>;

  constructor(options: Partial<ListenOptions> = {}) {
    this.listener = new CmListener(
      { port, backlog: 8, answerWithin: 10_000, ...options },
      (request) => {
        this.#requests.push(request);
        this.#wanted?.resolve();
      },
    );
  }

  async request(): Promise<IncomingConnection> {
    while (this.#requests.length === 0) {
      this.#wanted = Promise.withResolvers();
      await deadline(this.#wanted.promise, 10_000);
    }
    return this.#requests.shift()!;
  }

  [Symbol.dispose](): void {
    this.listener[Symbol.dispose]();
  }
}

const depth = { responderResources: 4, initiatorDepth: 3, rnrRetry: 6 };

function connectTo(
  qpn: number,
  options: Partial<ConnectOptions> = {},
  signal = AbortSignal.timeout(10_000),
): Promise<OutgoingConnection> {
  const privateData = new Uint8Array(0);
  const connecting = connect(
    { address, port, qpn, ...depth, privateData, retryCount: 5, ...options },
    signal,
  );
  // A test awaits it after it has seen the request.
  connecting.catch(() => {});
  return connecting;
}

/** Brings a queue pair to RTS with what the connection manager says, except the PSNs. */
function bringUp(
  end: ReliableEnd,
  connection: OutgoingConnection | IncomingConnection,
  peerPsn: number,
): void {
  const { init, rtr, rts } = connection.attributes();
  end.queuePair.modify({ ...init, access: [] });
  end.receives.prepare(0, 1).buffer(0, end.region.address, 64, end.region.lkey);
  end.queuePair.postReceive(end.receives);
  end.queuePair.modify({ ...rtr, rqPsn: peerPsn, minRnrTimer: 12 });
  end.queuePair.modify({ ...rts, sqPsn: end.psn });
}

async function send(from: ReliableEnd, to: ReliableEnd, bytes: readonly number[]): Promise<void> {
  from.memory.bytes.set(bytes, 1024);
  from.sends.prepare(0, 2, Opcode.SEND, SendFlag.SIGNALED)
    .buffer(0, from.region.address + 1024, bytes.length, from.region.lkey);
  from.queuePair.postSend(from.sends);
  await from.queue.next();
  assertEquals(from.queue.completions.status(0), "IBV_WC_SUCCESS");
  await to.queue.next();
  assertEquals([...to.memory.bytes.subarray(0, bytes.length)], [...bytes]);
}

async function rejectionOf(promise: Promise<unknown>): Promise<RdmaError> {
  return await assertRejects(() => promise, RdmaError);
}

cmTest("an address of this host gives its device, port and GID", () => {
  assertEquals(resolveLocal(address), v4Port);
  assertEquals(resolveLocal("fd09::1"), { ...v4Port, gid: "fd09::1" });
  const linkLocal = Deno.networkInterfaces()
    .find(({ name, address }) => name === "v0" && address.startsWith("fe80"))!.address;
  assertEquals(resolveLocal(`${linkLocal}%v0`), { ...v4Port, gid: linkLocal });
});

cmTest("an address that no RDMA device of this host has gives nothing", () => {
  for (const other of ["127.0.0.1", "::1", "0.0.0.0", "::", "10.9.0.77", "192.0.2.1"]) {
    assertEquals(resolveLocal(other), undefined, other);
  }
  assertEquals(assertThrows(() => resolveLocal("server"), RdmaError).code, "address_invalid");
  assertEquals(assertThrows(() => resolveLocal("fe80::1%no"), RdmaError).code, "address_invalid");
});

cmTest("an address that does not answer, or to which no device leads, is an error", async () => {
  const error = await rejectionOf(connectTo(1, { address: "10.9.0.77" }));
  assertEquals(error.code, "cm_address_unresolved");
  assert(error.message.includes("10.9.0.77"), error.message);
  assert(error.remedy !== "");
  for (const nowhere of ["192.0.2.1", "127.0.0.1", "::"]) {
    const { message, remedy } = await rejectionOf(connectTo(1, { address: nowhere }));
    assert(message.includes(nowhere) && remedy !== "", message);
  }
});

cmTest("two queue pairs connect with the PSNs agreed elsewhere and exchange messages", async () => {
  using listening = new Listening();
  using device = new VerbsDevice(rxe.device);
  using client = new ReliableEnd(device);
  using server = new ReliableEnd(device);
  const privateData = crypto.getRandomValues(new Uint8Array(32));
  const connecting = connectTo(client.queuePair.qpn, { privateData });

  using incoming = await listening.request();
  assertEquals(incoming.remoteQpn, client.queuePair.qpn);
  assertEquals(incoming.local, v4Port);
  assertEquals(incoming.privateData.subarray(0, 32), privateData);
  bringUp(server, incoming, client.psn);
  const accepting = incoming.accept(
    { qpn: server.queuePair.qpn, ...depth },
    AbortSignal.timeout(10_000),
  );
  using outgoing = await connecting;
  assertEquals(outgoing.remoteQpn, server.queuePair.qpn);
  assertEquals(outgoing.local, v4Port);
  bringUp(client, outgoing, server.psn);
  outgoing.establish();
  await accepting;

  for (const [end, peer] of [[client, server], [server, client]] as const) {
    assertEquals(end.queuePair.query(), {
      state: "RTS",
      sqPsn: end.psn,
      rqPsn: peer.psn,
      destQpn: peer.queuePair.qpn,
    });
  }
  // The end of the listener is not the end of what it accepted.
  listening[Symbol.dispose]();
  await send(client, server, [1, 2, 3]);
  await send(server, client, [4, 5, 6]);

  outgoing[Symbol.dispose]();
  assertEquals(await outgoing.closed, undefined);
  assertEquals((await incoming.closed)?.code, "cm_disconnected");
});

cmTest(
  "attributes carry what both sides asked for, and neither PSNs nor access",
  async () => {
    using listening = new Listening();
    const connecting = connectTo(0x1234);
    using incoming = await listening.request();
    const { init, rtr, rts } = incoming.attributes();
    assertEquals(init, { state: "INIT", pkeyIndex: 0, port: 1 });
    const { addressVector, ...path } = rtr;
    assertEquals(path, { state: "RTR", destQpn: 0x1234, pathMtu: 4096, maxDestRdAtomic: 3 });
    assertEquals([addressVector?.dgid, addressVector?.isGlobal], [v4Port.gid, true]);
    const { timeout, ...retries } = rts;
    assertEquals(retries, { state: "RTS", retryCount: 5, rnrRetry: 6, maxRdAtomic: 4 });
    assert(timeout !== undefined && timeout > 0);
    incoming[Symbol.dispose]();
    await rejectionOf(connecting);
  },
);

cmTest("a queue pair in another thread, in a context of its own, connects", async () => {
  using listening = new Listening();
  using device = new VerbsDevice(rxe.device);
  using client = new ReliableEnd(device);
  const worker = new Worker(new URL("./queue_pair_worker.ts", import.meta.url), {
    type: "module",
  });
  using _worker = { [Symbol.dispose]: () => worker.terminate() };
  const next = () =>
    new Promise<FromQueuePairWorker>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
  const first = await next();
  assert("created" in first);
  const { qpn, psn } = first.created;

  const connecting = connectTo(client.queuePair.qpn);
  using incoming = await listening.request();
  const { init, rtr, rts } = incoming.attributes();
  const message: ToQueuePairWorker = {
    init: { ...init, access: [] },
    rtr: { ...rtr, rqPsn: client.psn, minRnrTimer: 12 },
    rts,
  };
  worker.postMessage(message);
  assertEquals(await next(), {
    connected: { state: "RTS", sqPsn: psn, rqPsn: client.psn, destQpn: client.queuePair.qpn },
  });
  const accepting = incoming.accept({ qpn, ...depth }, AbortSignal.timeout(10_000));
  using outgoing = await connecting;
  bringUp(client, outgoing, psn);
  outgoing.establish();
  await accepting;

  const received = next();
  client.memory.bytes.set([7, 8, 9]);
  client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 3, client.region.lkey);
  client.queuePair.postSend(client.sends);
  assertEquals(await received, { received: new Uint8Array([7, 8, 9]) });
});

cmTest("a listener on all addresses takes both families", async () => {
  using listening = new Listening();
  for (const each of [address, "fd09::1"]) {
    const connecting = connectTo(1, { address: each, localAddress: each });
    using incoming = await listening.request();
    assertEquals(incoming.local, { ...v4Port, gid: gidOfAddress(each) });
    incoming[Symbol.dispose]();
    await rejectionOf(connecting);
  }
});

cmTest("a request that is disposed arrives as a rejection", async () => {
  using listening = new Listening({ address });
  const connecting = connectTo(1);
  (await listening.request())[Symbol.dispose]();
  const error = await rejectionOf(connecting);
  assertEquals(error.code, "cm_rejected");
  assert(error.message.includes("10.9.0.1 port 4791"), error.message);
});

cmTest("nobody listening is said at once", async () => {
  const error = await rejectionOf(connectTo(1, {}, AbortSignal.timeout(5000)));
  assertEquals(error.code, "cm_nobody_listens");
});

cmTest(
  "a stranger's request makes room for the next one, and one that is expected does not",
  async () => {
    using listening = new Listening({ backlog: 1 });
    const awaited = connectTo(1);
    using expected = await listening.request();
    expected.expected();
    let ended = false;
    expected.closed.then(() => ended = true);
    const first = connectTo(2);
    await listening.request();
    const second = connectTo(3);
    assertEquals((await listening.request()).remoteQpn, 3);
    assertEquals((await rejectionOf(first)).code, "cm_rejected");
    listening[Symbol.dispose]();
    assertEquals((await rejectionOf(second)).code, "cm_rejected");
    assert(!ended);
    expected[Symbol.dispose]();
    assertEquals((await rejectionOf(awaited)).code, "cm_rejected");
  },
);

cmTest("a request that nobody expects in time is rejected", async () => {
  using listening = new Listening({ answerWithin: 200 });
  const connecting = connectTo(1);
  const incoming = await listening.request();
  assertEquals((await rejectionOf(connecting)).code, "cm_rejected");
  assertEquals((await incoming.closed)?.code, "cm_request_unanswered");
  const error = await rejectionOf(
    incoming.accept({ qpn: 2, ...depth }, AbortSignal.timeout(1000)),
  );
  assertEquals(error.code, "cm_request_unanswered");
});

cmTest("a server that does not answer ends the attempt at its deadline", async () => {
  using listening = new Listening();
  const connecting = connectTo(1, {}, AbortSignal.timeout(300));
  await listening.request();
  assertEquals((await rejectionOf(connecting)).code, "cm_timeout");
});

cmTest("an attempt that is given up ends with the reason", async () => {
  using listening = new Listening();
  const giveUp = new AbortController();
  const connecting = connectTo(1, {}, giveUp.signal);
  await listening.request();
  giveUp.abort(new RdmaError("session_ended", "the TLS connection was lost"));
  assertEquals((await rejectionOf(connecting)).code, "session_ended");
  const aborted = AbortSignal.abort(new Error("too late"));
  assertEquals((await rejectionOf(connectTo(1, {}, aborted))).code, "cm_aborted");
});

cmTest("a client that vanishes before it establishes ends the server's wait", async () => {
  using listening = new Listening();
  const connecting = connectTo(1);
  using incoming = await listening.request();
  const accepting = rejectionOf(
    incoming.accept({ qpn: 2, ...depth }, AbortSignal.timeout(10_000)),
  );
  (await connecting)[Symbol.dispose]();
  assertEquals((await accepting).code, "cm_rejected");
});

cmTest("a client that never establishes ends the server's wait at its deadline", async () => {
  using listening = new Listening();
  const connecting = connectTo(1);
  using incoming = await listening.request();
  const accepting = rejectionOf(incoming.accept({ qpn: 2, ...depth }, AbortSignal.timeout(300)));
  using outgoing = await connecting;
  assertEquals((await accepting).code, "cm_timeout");
  assertEquals((await outgoing.closed)?.code, "cm_rejected");
  assertEquals(assertThrows(() => outgoing.establish(), RdmaError).code, "cm_rejected");
});

cmTest("a port that is taken, and an address that is not this host's, are refused", () => {
  using _listening = new Listening();
  const taken = assertThrows(() => new Listening(), RdmaError);
  assert(taken.message.includes("port 4791"), taken.message);
  assert(taken.remedy.includes("another program listens"), taken.remedy);
  const foreign = assertThrows(() => new Listening({ address: "10.9.0.77" }), RdmaError);
  assert(foreign.message.includes("10.9.0.77"), foreign.message);
});

cmTest("more READs at once than the device serves are refused when connecting", async () => {
  using _listening = new Listening();
  const error = await rejectionOf(connectTo(1, { responderResources: 200 }));
  assertEquals(error.code, "cm_call_failed");
});

cmTest("private data that does not fit is refused before anything is sent", async () => {
  await assertRejects(() => connectTo(1, { privateData: new Uint8Array(57) }), RangeError);
});
