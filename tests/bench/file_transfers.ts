/** Files over kTLS, user-space TLS and RDMA, side by side: how fast, and for how much CPU time. */
import type { Client, ClientOptions } from "../../lib/services/client.ts";
import type { Established } from "../../lib/session/session_path.ts";
import { kernelText } from "../../lib/tls/connection.ts";
import { openClient } from "../client.ts";
import { type RunningServer, startServer } from "../cli/run.ts";
import { randomFile, Workspace } from "../program.ts";
import { provider, rxe } from "../provider.ts";
import { cpuSeconds } from "./cpu_time.ts";
import { type Carrier, type Figure, MEGABYTE, type Subject, summarize } from "./figure.ts";
import { warnOfDisturbance } from "./in_turn.ts";
import { WithoutKernelTls } from "./kernel_tls.ts";

const runs = 3;
const size = 64 * MEGABYTE;
const GIGABYTE = 2 ** 30;

/** Which way files go, as the client sees it. */
export type Direction = "put" | "get";

/** What one transfer took. */
interface Cost {
  readonly seconds: number;
  /** Of both processes. */
  readonly cpuSeconds: number;
}

/** A session over one of them, and what its transfers took so far. */
interface Contender {
  readonly carrier: Carrier;
  readonly client: Client;
  readonly costs: Cost[];
}

/** How a session carries data. */
type Way = Pick<ClientOptions, "transports" | "seal">;

const ktls: Way = { transports: ["ktls"] };
const sealed: Way = { transports: ["rdma"] };
const unsealed: Way = { transports: ["rdma"], seal: "off" };

/** Opens a session. */
type Open = (way: Way) => Promise<Contender>;

/** In the guest: kTLS, user-space TLS, and RDMA by the kernel's device. */
export function kernelTransfers(direction: Direction): AsyncGenerator<Figure> {
  return transfers(`ktls.${direction}`, direction, async (open) => {
    const userSpace = await openWithoutKernel(() => open(ktls));
    const kernel = await open(ktls);
    if (userSpace.carrier !== "tls" || kernel.carrier !== "ktls") {
      throw new Error(`the sessions are by ${userSpace.carrier} and ${kernel.carrier}`);
    }
    return [userSpace, kernel, await open(sealed), await open(unsealed)];
  });
}

/** A connection stays as it was made. */
async function openWithoutKernel<T>(open: () => Promise<T>): Promise<T> {
  await using _without = await WithoutKernelTls.begin();
  return await open();
}

/** On this machine: TLS in user space unless its kernel seals, and RDMA by the embedded provider. */
export function localTransfers(direction: Direction): AsyncGenerator<Figure> {
  return transfers(
    `tls.${direction}`,
    direction,
    async (open) => [await open(ktls), await open(sealed), await open(unsealed)],
  );
}

/** @param enlist opens the sessions to compare, which stay open until the end */
async function* transfers(
  bench: string,
  direction: Direction,
  enlist: (open: Open) => Promise<Contender[]>,
): AsyncGenerator<Figure> {
  await using workspace = await Workspace.create();
  const options = [
    ...["--device", provider.device, "--root", workspace.root],
    ...["--transport", "any", "--seal", "off"],
  ];
  await using server = await startServer(workspace.path, options);
  await using sessions = new AsyncDisposableStack();
  const contenders = await enlist(async (way) => {
    const client = sessions.use(await openClient(workspace, server, way));
    return { carrier: carrierOf(client.session.agreed), client, costs: [] };
  });
  await randomFile(workspace.file("sent"), size);
  await Deno.copyFile(workspace.file("sent"), `${workspace.root}/file`);
  // The first transfer of each also has code compiled, which is nobody's cost in particular.
  for (const { client } of contenders) await transfer(direction, client, workspace, server);
  for (let run = 1; run <= runs; run++) {
    for (const { carrier, client, costs } of contenders) {
      const cost = await transfer(direction, client, workspace, server);
      costs.push(cost);
      console.error(
        `${bench} ${carrier}, ${run} of ${runs}: ${bandwidth(cost).toFixed(2)} MB/s, ` +
          `${cpuPerGigabyte(cost).toFixed(2)} s/GiB`,
      );
    }
  }
  for (const { carrier, costs } of contenders) {
    const subject = { bench, size, transport: carrier, peer: null, settings: settings() };
    yield figure({ ...subject, unit: "MB/s" }, costs.map(bandwidth));
    yield figure({ ...subject, unit: "s/GiB" }, costs.map(cpuPerGigabyte));
  }
}

/** @throws Error when the kernel does one half of TLS and this process the other */
function carrierOf(agreed: Established): Carrier {
  if (agreed.transport !== "ktls") {
    return agreed.choices.seal === "off" ? "rdma, unsealed" : "rdma, sealed";
  }
  const { send, receive } = agreed.kernel;
  if (send !== receive) {
    throw new Error(`the kernel does TLS by half: ${kernelText(agreed.kernel)}`);
  }
  return send ? "ktls" : "tls";
}

async function transfer(
  direction: Direction,
  { session, files }: Client,
  workspace: Workspace,
  server: RunningServer,
): Promise<Cost> {
  const spent = () => cpuSeconds(Deno.pid) + cpuSeconds(server.pid);
  const before = spent();
  const started = performance.now();
  await session.during(
    direction === "put"
      ? files.put(session, workspace.file("sent"), "file")
      : files.get(session, "file", workspace.file("back")),
  );
  const seconds = (performance.now() - started) / 1000;
  return { seconds, cpuSeconds: spent() - before };
}

function bandwidth({ seconds }: Cost): number {
  return size / MEGABYTE / seconds;
}

function cpuPerGigabyte({ cpuSeconds }: Cost): number {
  return cpuSeconds * GIGABYTE / size;
}

function figure(subject: Subject, values: number[]): Figure {
  warnOfDisturbance(subject, `${subject.transport} in ${subject.unit}`, values);
  return summarize(subject, values);
}

function settings(): string {
  return `one file of ${size / MEGABYTE} MiB between two processes on ${provider.address}; MB of ` +
    "2^20 bytes; s/GiB: CPU time of both, user and system; both hash the file, and it is on the " +
    "receiver's disk at the end; ktls: sealed by the kernel, tls: by libssl, both with " +
    "AES-256-GCM, as are the records of rdma, sealed; rdma, unsealed: in the clear; rdma by " +
    (provider === rxe ? "rxe0, on an emulated processor" : "the embedded provider") +
    `; medians of ${runs} runs each, in turn, after one that does not count`;
}
