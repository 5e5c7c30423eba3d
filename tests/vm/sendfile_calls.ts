/** What goes out by sendfile(2), as the guest's kernel counts it (Documentation/trace/histogram.rst of Linux). */
const TRACING = "/sys/kernel/tracing";
const EVENT = `${TRACING}/events/syscalls/sys_exit_sendfile64`;
const HISTOGRAM = "hist:keys=common_pid:vals=ret if ret > 0";

/** All processes' calls from the beginning until it is disposed. */
export class SendfileCalls implements AsyncDisposable {
  static async count(): Promise<SendfileCalls> {
    // It may be mounted already.
    await new Deno.Command("mount", { args: ["-t", "tracefs", "none", TRACING], stderr: "null" })
      .output();
    await Deno.writeTextFile(`${EVENT}/trigger`, HISTOGRAM);
    return new SendfileCalls();
  }

  /** Bytes that were sent so far. */
  get bytes(): number {
    const text = Deno.readTextFileSync(`${EVENT}/hist`);
    return [...text.matchAll(/ ret: +(\d+)$/gm)].reduce((sum, [, bytes]) => sum + Number(bytes), 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.writeTextFile(`${EVENT}/trigger`, `!${HISTOGRAM}`);
  }
}
