/** What sealing costs a session: echoes of 4 KiB to 4 MiB, sealed and unsealed in turn. */
import type { Client } from "../../lib/services/client.ts";
import { openClient } from "../client.ts";
import { startServer } from "../cli/run.ts";
import { Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { type Figure, MEGABYTE } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";

const runs = 5;

/** Bytes of a message. */
const sizes = [4096, 16_384, 65_536, 262_144, MEGABYTE, 4 * MEGABYTE];

/** Bytes under way at once, if that is more than one message; and messages, if they are small. */
const window = 4 * MEGABYTE;
const most = 32;

/** Bytes of one run, each way. */
const total = 128 * MEGABYTE;

/** One figure for each size. */
export async function* sealedThroughput(): AsyncGenerator<Figure> {
  await using workspace = await Workspace.create();
  const limits = ["--max-message", "4MiB", "--max-queued", "16MiB", "--message-rate", "1000000"];
  const options = ["--device", provider.device, "--seal", "off", ...limits];
  await using server = await startServer(workspace.path, options);
  await using sealed = await openClient(workspace, server);
  await using unsealed = await openClient(workspace, server, { seal: "off" });
  for (const size of sizes) {
    // The compiler has seen all it will run.
    for (const client of [sealed, unsealed]) await echo(client, size);
    yield await measureInTurn({
      subject: {
        bench: "seal.throughput",
        size,
        peer: "unsealed",
        unit: "MB/s",
        settings: `MB of 2^20 bytes, each way; both: echoes between two processes by ` +
          `${provider.device}, ${total / MEGABYTE} MiB each way, up to ${most} messages or ` +
          `${window / MEGABYTE} MiB at once; medians of ${runs} runs each, in turn`,
      },
      runs,
      ours: () => echo(sealed, size),
      theirs: () => echo(unsealed, size),
    });
  }
}

/** MB/s each way. */
async function echo({ session, messages }: Client, size: number): Promise<number> {
  const body = new Uint8Array(size).fill(1);
  const atOnce = Math.min(most, Math.max(1, window / size));
  const rounds = total / size / atOnce;
  const asking = async () => {
    for (let round = 0; round < rounds; round++) await messages.ask("ECHO", body);
  };
  const started = performance.now();
  await session.during(Promise.all(Array.from({ length: atOnce }, asking)));
  return total / MEGABYTE / ((performance.now() - started) / 1000);
}
