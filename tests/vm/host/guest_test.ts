import { join } from "node:path";
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { GuestError, runInGuest } from "../guest.ts";

Deno.test("a guest gives back its script's status and files, and has no RDMA device if told so", async () => {
  const resultDirectory = await Deno.makeTempDir();
  try {
    const { status, output } = await runInGuest({
      script: `ls /sys/class/infiniband; echo "$WORDS" | tee /results/words; exit 7`,
      environment: { WORDS: 'it\'s "quoted" $HOME' },
      resultDirectory,
      rdma: false,
    });
    assertEquals(status, 7);
    assertStringIncludes(output, "cannot access '/sys/class/infiniband'");
    assertEquals(await Deno.readTextFile(join(resultDirectory, "words")), 'it\'s "quoted" $HOME\n');
  } finally {
    await Deno.remove(resultDirectory, { recursive: true });
  }
});

Deno.test("a guest whose kernel crashes is an error with the end of its console", async () => {
  const error = await assertRejects(
    () => runInGuest({ script: "echo c >/proc/sysrq-trigger", rdma: false }),
    GuestError,
    "the guest crashed",
  );
  assertStringIncludes(error.output, "sysrq triggered crash");
});

Deno.test("a guest that does not end in time is ended", async () => {
  await assertRejects(
    () => runInGuest({ script: "sleep 1000", timeout: 2 }),
    GuestError,
    "the guest hung for 2 s",
  );
});

Deno.test("a guest ends with the program that runs it, on Ctrl-C and when that is killed", async () => {
  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    const resultDirectory = await Deno.makeTempDir();
    try {
      const module = import.meta.resolve("../guest.ts");
      const options = { script: "sleep 1000", resultDirectory };
      const program = new Deno.Command(Deno.execPath(), {
        args: ["eval", `(await import("${module}")).runInGuest(${JSON.stringify(options)})`],
        stdout: "null",
        stderr: "null",
      }).spawn();
      const guestRuns = () => isOnACommandLine(`path=${resultDirectory},`);
      await until(guestRuns, "QEMU runs");
      program.kill(signal);
      assertEquals((await program.status).signal, signal);
      await until(async () => !(await guestRuns()), `QEMU has ended after ${signal}`);
    } finally {
      await Deno.remove(resultDirectory, { recursive: true });
    }
  }
});

/** Processes that are not our children report nothing: looks again and again, for 20 seconds. */
async function until(condition: () => Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) {
    assert(performance.now() < deadline, `gave up waiting until ${what}`);
    await delay(20);
  }
}

/** Whether there is a process with these words in its command line. */
async function isOnACommandLine(words: string): Promise<boolean> {
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    // Processes end while they are looked at.
    const line = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
    if (line.includes(words)) return true;
  }
  return false;
}
