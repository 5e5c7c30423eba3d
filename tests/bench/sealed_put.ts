/** A whole put of a file by the program, sealed, beside scp of the same file over loopback. */
import { join } from "node:path";
import { compile } from "../../.ci/compile.ts";
import { randomFile, RunningServer, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { type Figure, MEGABYTE } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { finish, SshServer } from "./scp.ts";

const runs = 7;

/** Bytes of the file. */
const standardSize = 2 ** 30;

/** Where files are in memory, so that it is no disk that is measured. */
const MEMORY = "/dev/shm";

/** @param size of the file, for a short try */
export async function* sealedPut(size = standardSize): AsyncGenerator<Figure> {
  console.error(await compile());
  const folder = await Deno.makeTempDir(await hasRoom(3 * size) ? { dir: MEMORY } : {});
  try {
    yield await besideScp(folder, size);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function besideScp(folder: string, size: number): Promise<Figure> {
  const source = join(folder, "source");
  await randomFile(source, size);
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, ["--root", folder]);
  await using ssh = await SshServer.start();
  const put = async () => {
    const { status, stderr } = await workspace.client(server, "put", [source, "put"]);
    if (status !== 0) throw new Error(`put failed: ${stderr}`);
  };
  // What is put is on the disk when the program ends; scp does not wait for that.
  const copy = async () => {
    await ssh.copy(source, join(folder, "copied"));
    await finish("sync", [join(folder, "copied")]);
  };
  // The server's code is compiled as it runs.
  for (let before = 0; before < 2; before++) await Promise.all([put(), copy()]);
  return await measureInTurn({
    subject: {
      bench: "files.put.sealed",
      size,
      transport: "rdma, sealed",
      peer: "scp",
      unit: "MB/s",
      leastRatio: 1,
      settings: `one file of ${size / MEGABYTE} MiB over loopback; MB of 2^20 bytes; both: from ` +
        `the program's start to its end and the file on the receiver's disk` +
        `${folder.startsWith(MEMORY) ? ", which is memory" : ""}; verbseal client put by ` +
        `${provider.device}, both hash the file; scp -c aes256-gcm@openssh.com, then sync; ` +
        `medians of ${runs} runs each, in turn`,
    },
    runs,
    ours: () => rate(size, put),
    theirs: () => rate(size, copy),
  });
}

async function rate(size: number, move: () => Promise<void>): Promise<number> {
  const started = performance.now();
  await move();
  return size / MEGABYTE / ((performance.now() - started) / 1000);
}

async function hasRoom(bytes: number): Promise<boolean> {
  try {
    const available = await finish("df", ["--output=avail", "-B1", MEMORY]);
    return Number(available.trim().split("\n").at(-1)) > bytes;
  } catch {
    return false;
  }
}
