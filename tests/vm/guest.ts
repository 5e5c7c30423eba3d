/**
 * Runs scripts in guests: Debian's kernel under QEMU's software emulation, on the host's own root
 * file system (read-only, changes go to memory), with a kernel RDMA device (Soft-RoCE) in it.
 *
 * What is installed on the host runs in the guest: `deno` there is this very binary with its cache
 * of modules. The guest has no network but its own: port v0 with 10.9.0.1/24 and fd09::1/64, MTU
 * 9000, and the RDMA device rxe0 on it.
 */
import { join } from "node:path";
import { VerbsealError } from "../../lib/errors.ts";
import { type GuestKernel, prepareKernel } from "./kernel.ts";

/** What to run, and in what kind of guest. */
export interface GuestOptions {
  /** Bash script, run as root in the guest. */
  script: string;
  /** Directory in which the script starts; by default the caller's. */
  directory?: string;
  /** Variables for the script, beside PATH, HOME, LANG, DENO_DIR and DENO (path of deno). */
  environment?: Record<string, string>;
  /** Host directory that is /results in the guest, writable; by default one that is thrown away. */
  resultDirectory?: string;
  /** Megabytes; 4096 unless told. Three quarters of it are for files the guest writes. */
  memory?: number;
  /** 2 unless told. */
  processors?: number;
  /** Seconds until the guest is ended and counts as hung; 300 unless told. */
  timeout?: number;
  /** Whether the guest has the RDMA modules and device; true unless told. */
  rdma?: boolean;
  /** Gets what the guest prints, as it prints it. */
  onConsole?: (text: string) => void;
  /** Ends the guest when it fires. */
  signal?: AbortSignal;
  /** A wire to one other guest, see wire.ts; by default v0 is one end of a veth pair. */
  wire?: GuestWire;
}

/** The guest's end of a wire between two guests. */
export interface GuestWire {
  /** 1 has 10.9.0.1 and fd09::1; 2 has 10.9.0.2 and fd09::2. */
  number: 1 | 2;
  /** QEMU arguments that make the network device. */
  qemu: string[];
}

/** How a guest ended. */
export interface GuestResult {
  /** Exit status of the script. */
  status: number;
  /** All that the guest printed. */
  output: string;
}

/** A guest that did not come to the end of its script. */
export class GuestError extends VerbsealError {
  override readonly name = "GuestError";

  /**
   * @param why what happened to the guest
   * @param output all that the guest printed
   */
  constructor(readonly why: string, readonly output: string) {
    super("guest", `${why}; the end of its console:\n${lastLines(output, 30)}`);
  }
}

/**
 * Boots a guest, runs a script in it, and ends it, whatever happens.
 *
 * @throws GuestError if the guest crashed, hung, was aborted, or could not be set up
 */
export async function runInGuest(options: GuestOptions): Promise<GuestResult> {
  const kernel = await prepareKernel();
  const results = options.resultDirectory ?? await Deno.makeTempDir({ prefix: "verbseal-guest-" });
  try {
    await writeOrders(options, kernel, results);
    const seconds = options.timeout ?? 300;
    const console = await runQemu(qemuArguments(options, kernel, results), seconds, options);
    const status = await readStatus(results);
    if (status !== undefined) return { status, output: console.output };
    throw new GuestError(
      console.ended ?? "the guest crashed or could not be set up",
      console.output,
    );
  } finally {
    if (options.resultDirectory === undefined) await Deno.remove(results, { recursive: true });
  }
}

/** Puts into the share what tests/vm/setup will read there. */
async function writeOrders(
  options: GuestOptions,
  kernel: GuestKernel,
  results: string,
): Promise<void> {
  const orders = join(results, ".guest");
  await Deno.mkdir(orders, { recursive: true });
  await Deno.remove(join(orders, "status")).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  const environment = await guestEnvironment(options, kernel);
  const exports = Object.entries(environment).map(([name, value]) =>
    `export ${name}='${value.replaceAll("'", `'\\''`)}'\n`
  );
  await Deno.writeTextFile(join(orders, "environment"), exports.join(""));
  await Deno.writeTextFile(join(orders, "script"), options.script);
  await Deno.copyFile(new URL("./setup", import.meta.url), join(orders, "setup"));
}

async function guestEnvironment(
  options: GuestOptions,
  kernel: GuestKernel,
): Promise<Record<string, string>> {
  const number = options.wire?.number ?? 1;
  return {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: Deno.env.get("HOME") ?? "/root",
    LANG: "C.UTF-8",
    NO_COLOR: "1",
    DENO: Deno.execPath(),
    DENO_DIR: await denoDirectory(),
    DENO_NO_UPDATE_CHECK: "1",
    VERBSEAL_TEST_PROVIDER: "verbs",
    GUEST_DIRECTORY: options.directory ?? Deno.cwd(),
    GUEST_MODULES: kernel.modules,
    GUEST_NUMBER: String(number),
    GUEST_PEER: options.wire === undefined ? "" : `10.9.0.${3 - number}`,
    GUEST_RDMA: options.rdma === false ? "" : "1",
    ...options.environment,
  };
}

/** Where this deno keeps its modules: the guest has no other way to get them. */
async function denoDirectory(): Promise<string> {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  return JSON.parse(new TextDecoder().decode(stdout)).denoDir;
}

function qemuArguments(options: GuestOptions, kernel: GuestKernel, results: string): string[] {
  // Commas separate QEMU's sub-options; doubled they stand for themselves.
  const share = results.replaceAll(",", ",,");
  return [
    ..."-accel tcg,thread=multi -cpu max -no-reboot -nic none".split(" "),
    ...["-smp", String(options.processors ?? 2)],
    ..."-display none -monitor none -serial stdio".split(" "),
    ...["-m", String(options.memory ?? 4096)],
    ...["-kernel", kernel.image, "-initrd", kernel.initramfs],
    ...["-append", "console=ttyS0 quiet panic=-1 mitigations=off"],
    ...["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"],
    ...["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"],
    ...["-fsdev", `local,id=results,path=${share},security_model=none`],
    ...["-device", "virtio-9p-pci,fsdev=results,mount_tag=results"],
    ...(options.wire?.qemu ?? []),
  ];
}

/** Runs QEMU to its end; `ended` says why it was ended from here, if it was. */
async function runQemu(
  args: string[],
  seconds: number,
  { onConsole, signal }: GuestOptions,
): Promise<{ output: string; ended?: string }> {
  // setpriv: the kernel ends QEMU with this process, even when that is killed outright.
  const qemu = new Deno.Command("setpriv", {
    args: ["--pdeathsig", "KILL", "qemu-system-x86_64", ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let ended: string | undefined;
  const kill = () => {
    try {
      qemu.kill("SIGKILL");
    } catch {
      // It has ended by itself.
    }
  };
  const end = (why: string) => {
    ended ??= why;
    kill();
  };
  const timer = setTimeout(() => end(`the guest hung for ${seconds} s`), seconds * 1000);
  const abort = () => end("the guest was aborted");
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  const stopListening = endOnSignals(() => end("the guest was interrupted"));
  let output = "";
  const collect = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      const clean = text.replaceAll("\r", "");
      output += clean;
      onConsole?.(clean);
    }
  };
  try {
    await Promise.all([collect(qemu.stdout), collect(qemu.stderr), qemu.status]);
  } finally {
    kill();
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    stopListening();
  }
  return { output, ...(ended !== undefined && { ended }) };
}

/** On Ctrl-C or SIGTERM ends the guest, then lets the signal have its usual effect. */
function endOnSignals(end: () => void): () => void {
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const listeners = signals.map((signal) => {
    const listener = () => {
      end();
      stop();
      Deno.kill(Deno.pid, signal);
    };
    Deno.addSignalListener(signal, listener);
    return () => Deno.removeSignalListener(signal, listener);
  });
  const stop = () => listeners.splice(0).forEach((remove) => remove());
  return stop;
}

async function readStatus(results: string): Promise<number | undefined> {
  try {
    return Number(await Deno.readTextFile(join(results, ".guest", "status")));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function lastLines(text: string, count: number): string {
  return text.trimEnd().split("\n").slice(-count).join("\n");
}
