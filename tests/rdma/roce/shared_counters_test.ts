import { assert, assertEquals } from "@std/assert";
import { TextLineStream } from "@std/streams/text-line-stream";
import { libc } from "../../../ffi/libc.ts";
import {
  listSharedCounters,
  type PortCounters,
  shareCounters,
} from "../../../lib/rdma/roce/shared_counters.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

const MODULE = new URL("../../../lib/rdma/roce/shared_counters.ts", import.meta.url).href;
const NAMES = ["rx_packets", "tx_packets"];

/** A place for a directory that is not there yet. */
async function makePlace(): Promise<AsyncDisposable & { path: string; directory: string }> {
  const path = await Deno.makeTempDir({ dir: "/dev/shm" });
  return {
    path,
    directory: `${path}/counters`,
    [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }),
  };
}

/** Another process, which may use FFI and nothing else: no files by Deno, no environment. */
function start(code: string): Deno.ChildProcess {
  const source = `import * as shared from ${JSON.stringify(MODULE)};\n${code}`;
  return new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      "--allow-ffi",
      "--no-check",
      "--config",
      new URL("../../../deno.json", import.meta.url).pathname,
      `data:application/typescript;base64,${btoa(source)}`,
    ],
    stdout: "piped",
  }).spawn();
}

async function listElsewhere(directory: string): Promise<PortCounters[]> {
  const process = start(
    `console.log(JSON.stringify(shared.listSharedCounters(${JSON.stringify(directory)})));`,
  );
  return JSON.parse(new TextDecoder().decode((await process.output()).stdout));
}

Deno.test("another process sees what a port counts, until the port is disposed", async () => {
  await using place = await makePlace();
  const counters = shareCounters("127.0.0.1", 4791, NAMES, place.directory);
  using _other = shareCounters("fd09::1", 40000, NAMES, place.directory);
  counters.values[1]! += 2 ** 40;
  const listed = await listElsewhere(place.directory);
  listed.sort((one, other) => one.port - other.port);
  assertEquals(listed, [
    {
      address: "127.0.0.1",
      port: 4791,
      pid: Deno.pid,
      counters: { rx_packets: 0, tx_packets: 2 ** 40 },
    },
    { address: "fd09::1", port: 40000, pid: Deno.pid, counters: { rx_packets: 0, tx_packets: 0 } },
  ]);
  counters[Symbol.dispose]();
  assertEquals((await listElsewhere(place.directory)).map(({ port }) => port), [40000]);
  counters.values[1]! += 1; // has no effect, and does no harm
});

Deno.test("a process that was killed is not listed, and its file is removed", async () => {
  await using place = await makePlace();
  const process = start(`
    const counters = shared.shareCounters("::1", 4791, ["rx_packets"], ${
    JSON.stringify(place.directory)
  });
    counters.values[0] = 7;
    console.log("ready");
    setInterval(() => counters, 1000);
  `);
  const lines = process.stdout
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream())
    .getReader();
  assertEquals((await lines.read()).value, "ready");
  assertEquals(listSharedCounters(place.directory), [
    { address: "::1", port: 4791, pid: process.pid, counters: { rx_packets: 7 } },
  ]);
  process.kill("SIGKILL");
  await process.status;
  await lines.cancel();
  assertEquals([...Deno.readDirSync(place.directory)].length, 1);
  assertEquals(listSharedCounters(place.directory), []);
  assertEquals([...Deno.readDirSync(place.directory)], []);
});

Deno.test("the directory is open to its user alone", async () => {
  await using place = await makePlace();
  using _counters = shareCounters("127.0.0.1", 4791, NAMES, place.directory);
  const { mode } = await Deno.stat(place.directory);
  assertEquals(mode! & 0o777, 0o700);
});

Deno.test("counters stay private where others could write, and where no directory can be made", async () => {
  await using place = await makePlace();
  const open = `${place.path}/open`;
  await Deno.mkdir(open);
  await Deno.chmod(open, 0o777);
  await Deno.mkdir(`${place.path}/target`, { mode: 0o700 });
  await Deno.symlink(`${place.path}/target`, `${place.path}/link`);
  for (const directory of [open, `${place.path}/link`, `${place.path}/missing/counters`]) {
    using counters = shareCounters("127.0.0.1", 4791, NAMES, directory);
    counters.values[0]! += 1;
    assertEquals([...counters.values], [1, 0]);
    assertEquals(listSharedCounters(directory), []);
  }
  assertEquals([...Deno.readDirSync(open)], []);
  assertEquals([...Deno.readDirSync(`${place.path}/target`)], []);
});

Deno.test("a port of this process is listed where all processes of the user look", () => {
  using _counters = shareCounters("127.0.0.1", 9, NAMES);
  assert(listSharedCounters().some(({ port, pid }) => port === 9 && pid === Deno.pid));
});

Deno.test("a file of another version is passed over", async () => {
  await using place = await makePlace();
  using counters = shareCounters("127.0.0.1", 4791, NAMES, place.directory);
  assertEquals(listSharedCounters(place.directory).length, 1);
  const [entry] = [...Deno.readDirSync(place.directory)];
  using file = await Deno.open(`${place.directory}/${entry!.name}`, { write: true });
  await file.write(new TextEncoder().encode("what is this?"));
  assertEquals(listSharedCounters(place.directory), []);
  assertEquals(counters.values.length, 2);
});
