/** Sealing alone, in memory, beside `openssl speed`, which encrypts without nonces and tags of records. */
import { Memory } from "../../ffi/memory.ts";
import { RECORD_OVERHEAD, SessionSeal } from "../../lib/security/seal.ts";
import { type Figure, MEGABYTE } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";

const runs = 7;

/** Bytes of a record's plaintext. */
const size = 2 ** 14;

/** What sealing keeps at least of openssl's speed. */
const LEAST_RATIO = 0.8;

/** Milliseconds of one run, as long as one of openssl's. */
const duration = 1000;

/** Records between two looks at the clock. */
const batch = 500;

/** Sealing with AES-256-GCM. */
export async function* sealing(): AsyncGenerator<Figure> {
  yield await measureInTurn({
    subject: {
      bench: "seal.gcm",
      size,
      peer: "openssl speed",
      unit: "MB/s",
      leastRatio: LEAST_RATIO,
      settings: `AES-256-GCM, records of ${size} bytes sealed in memory by one thread for 1 s; ` +
        `median of ${runs} runs of each in turn`,
    },
    runs,
    ours,
    theirs,
  });
}

function ours(): number {
  using seal = new SessionSeal({
    cipher: "aes-256-gcm",
    session: new Uint8Array(16),
    epoch: 0,
    own: new Uint8Array(32),
    peer: new Uint8Array(32),
  }, {
    side: "client",
    fail: (error) => {
      throw error;
    },
  });
  using channel = seal.channel("messages");
  using source = new Memory(size);
  using target = new Memory(size + RECORD_OVERHEAD);
  const started = performance.now();
  let records = 0;
  let elapsed = 0;
  for (; elapsed < duration; elapsed = performance.now() - started) {
    for (let record = 0; record < batch; record++) channel.seal(source, 0, size, target, 0, 0);
    records += batch;
  }
  return records * size / MEGABYTE / (elapsed / 1000);
}

async function theirs(): Promise<number> {
  const { stdout } = await new Deno.Command("openssl", {
    args: [
      "speed",
      "-elapsed",
      "-mr",
      "-evp",
      "aes-256-gcm",
      "-bytes",
      String(size),
      "-seconds",
      "1",
    ],
    stdin: "null",
    stderr: "null",
  }).output();
  const [, bytes] = /^\+F:\d+:AES-256-GCM:([\d.]+)$/m.exec(new TextDecoder().decode(stdout)) ?? [];
  if (bytes === undefined) throw new Error("openssl speed has not said how fast it was");
  return Number(bytes) / MEGABYTE;
}
