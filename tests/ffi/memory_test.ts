import { assert, assertEquals, assertThrows } from "@std/assert";
import { libc, SystemError } from "../../ffi/libc.ts";
import { Memory } from "../../ffi/memory.ts";

// Loaded here: a library counts as a test's leak when the test is the first to use it.
libc();

Deno.test("memory is zeroed, page-aligned, and gone with its views when disposed", () => {
  const memory = new Memory(5000);
  assertEquals(memory.address % 4096, 0);
  assertEquals(memory.bytes.length, 5000);
  assertEquals(memory.bytes.every((byte) => byte === 0), true);
  const { bytes } = memory;
  memory[Symbol.dispose]();
  memory[Symbol.dispose]();
  assertEquals(bytes.length, 0, "a view over unmapped memory would end the process");
});

Deno.test("memory that the system does not have is refused by name", () => {
  const error = assertThrows(() => new Memory(2 ** 52), SystemError);
  assertEquals([error.call, error.code], ["mmap", "ENOMEM"]);
});

Deno.test("memory takes no more of the system's than was written to, also at its end", async () => {
  const before = await mostResident();
  for (let count = 0; count < 2; count++) {
    using memory = new Memory(2 ** 30);
    memory.bytes[2 ** 29] = 1;
  }
  assert(await mostResident() - before < 2 ** 28);
});

/** Bytes of this process's own that were in memory at once, at most (VmHWM of proc(5)). */
async function mostResident(): Promise<number> {
  const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(await Deno.readTextFile("/proc/self/status"))!;
  return Number(kilobytes) * 1024;
}
