/**
 * `deno task test [host|vm|container]`: all tests, those on this machine, those in guests, or the
 * container's. Installs the system packages they need. The last line is `N passed, N failed`.
 */
import { basename, join } from "node:path";
import { compile, EXECUTABLE } from "../.ci/compile.ts";
import { ensurePackages, PACKAGES } from "../.ci/packages.ts";
import { errorText, VerbsealError } from "../lib/errors.ts";
import {
  failed,
  type Failure,
  filterOfFailed,
  judge,
  judgeAgain,
  type Report,
  type TestRun,
} from "./report.ts";
import { bundledImportMap } from "./vm/bundle.ts";
import { GuestError, runInGuest } from "./vm/guest.ts";
import { prepareKernel } from "./vm/kernel.ts";
import { fetchModules } from "./vm/modules.ts";

const root = join(import.meta.dirname ?? ".", "..");
/** Where reports and full outputs are left, a directory for each part. */
const results = join(root, "build", "tests");
/** Lines of a failure's message that are repeated at the end; all of it is in the results. */
const MESSAGE_LINES = 40;

/** A part of the run; its name is the first word of its line. */
interface Part {
  name: string;
  /** System packages, and what they are for. */
  needs: readonly string[];
  why: string;
  run(directory: string): Promise<Report>;
}

const check: Part = { name: "check", needs: [], why: "", run: runCheck };

const executable: Part = { name: "compile", needs: [], why: "", run: makeExecutable };

const host: Part = {
  name: "host",
  needs: [
    ...[...PACKAGES.libraries, ...PACKAGES.headers],
    ...[...PACKAGES.shells, ...PACKAGES.interfaces, ...PACKAGES.tokens, ...PACKAGES.tls],
  ],
  why: "to compare with C and ethtool, and to try completion, tokens and other programs' TLS",
  run: (directory) => testHere(directory, 900, /^tests\/(?!vm\/|session\/)/),
};

const sessions: Part = {
  name: "sessions",
  needs: [...PACKAGES.libraries, "iproute2"],
  why: "to bring sessions up and down, with the TLS that Deno has",
  run: (directory) => testHere(directory, 900, /^tests\/session\//, ownNetwork),
};

const openssl: Part = {
  name: "openssl",
  needs: [...PACKAGES.libraries, "iproute2"],
  why: "to try again with libssl what speaks TLS",
  run: (directory) => testWithOpenssl(directory, 600),
};

const guest: Part = {
  name: "guest",
  needs: PACKAGES.guest,
  why: "to boot guests",
  run: async (directory) =>
    await testInGuest(directory, 2700, await testFiles(/^tests\/vm\/[^/]+$/)),
};

const device: Part = {
  name: "device",
  needs: PACKAGES.guest,
  why: "to try again on a kernel's device, in a guest, what the embedded provider does here",
  run: async (directory) => await testInGuest(directory, 2700, await providerTests()),
};

const wire: Part = {
  name: "wire",
  needs: [...PACKAGES.guest, ...PACKAGES.wire],
  why: "to watch the wire between two guests",
  run: (directory) => testHere(directory, 600, /^tests\/vm\/host\/(?!container)/),
};

const container: Part = {
  name: "container",
  needs: [...PACKAGES.guest, ...PACKAGES.container],
  why: "to build the container image and run it in a guest",
  run: (directory) => testHere(directory, 900, /^tests\/vm\/host\/container/),
};

/** Parts one after the other. */
type Lane = readonly Part[];

/** Lanes beside each other. */
type Step = readonly Lane[];

const alone = (part: Part): Step => [[part]];
/** Much of each is waiting. */
const onThisMachine: Step = [[host], [sessions, openssl]];
/** Each guest keeps little more than one processor busy. */
const inGuests: Step = [[guest], [device]];
/** The first lane's guest ends sooner. */
const inAllGuests: Step = [[guest, container], [device]];

const SELECTIONS: Record<string, readonly Step[]> = {
  all: [
    ...[alone(check), alone(executable), onThisMachine],
    ...[inAllGuests, alone(wire)],
  ],
  host: [alone(check), alone(executable), onThisMachine],
  vm: [alone(executable), inGuests, alone(wire)],
  container: [alone(executable), alone(container)],
};

/** Format, lint, types and import rules: one test. */
async function runCheck(directory: string): Promise<Report> {
  const { status, output } = await runDeno(["task", "check"], 300);
  await Deno.writeTextFile(join(directory, "output.txt"), output);
  return status === 0 ? { passed: 1, failures: [] } : failed("check", output);
}

async function makeExecutable(): Promise<Report> {
  console.log(`    ${await compile()}`);
  return { passed: 1, failures: [] };
}

/** Runs the test files whose path matches, on this machine. */
async function testHere(
  directory: string,
  seconds: number,
  pattern: RegExp,
  how: Surroundings = {},
): Promise<Report> {
  const files = await testFiles(pattern);
  return files.length === 0
    ? noTests(pattern)
    : await testFilesHere(directory, seconds, files, how);
}

/** Runs once more, with libssl, those that can be run with either TLS library. */
async function testWithOpenssl(directory: string, seconds: number): Promise<Report> {
  const pattern = /^tests\/(session|control|services)\/|^tests\/cli\/(failures|policy|devices)_/;
  const files = await importersOf("/tests/tls_backend.ts", pattern);
  return await testFilesHere(directory, seconds, files, {
    ...ownNetwork,
    environment: { VERBSEAL_TEST_TLS: "openssl" },
  });
}

function testFilesHere(
  directory: string,
  seconds: number,
  files: string[],
  how: Surroundings = {},
): Promise<Report> {
  return testTwice(directory, async (results, filter) => {
    const junit = join(results, "junit.xml");
    const filtered = filter === undefined ? [] : [`--filter=${filter}`];
    // Types are the check part's, once for all others.
    const args = ["test", "-A", "--no-check", `--junit-path=${junit}`, ...filtered, ...files];
    const { status, output } = await runDeno(args, seconds, how);
    await Deno.writeTextFile(join(results, "output.txt"), output);
    return { files, status, output, junit: await readIfThere(junit) };
  });
}

/** Runs test files in one guest. */
async function testInGuest(directory: string, seconds: number, files: string[]): Promise<Report> {
  const importMap = await preparingGuests();
  const names = files.map((file) => `'${file}'`).join(" ");
  return await testTwice(directory, async (results, filter) => {
    // Types are the check part's, on this machine.
    const options = `-A --no-check --cached-only --junit-path=/results/junit.xml ${importMap}`;
    const filtered = filter === undefined ? "" : '"--filter=$FILTER"';
    const { status, output: console } = await runInGuest({
      // The kernel writes to the console too, so the share gets the test run's words alone.
      script: `deno test ${options} ${filtered} ${names} 2>&1 | tee /results/output.txt; ` +
        "exit $PIPESTATUS",
      directory: root,
      environment: { VERBSEAL: EXECUTABLE, ...(filter !== undefined && { FILTER: filter }) },
      resultDirectory: results,
      timeout: seconds,
    }).catch((error) => {
      if (!(error instanceof GuestError)) throw error;
      return { status: undefined, output: `${error.output}\n${error.why}` };
    });
    await Deno.writeTextFile(join(results, "console.txt"), console);
    const junit = await readIfThere(join(results, "junit.xml"));
    // Without a report the guest's own last words say why.
    const output = junit && await readIfThere(join(results, "output.txt")) || console;
    return { files, status, output, junit };
  });
}

let preparation: Promise<string> | undefined;

/** Makes what all guests boot from and import, before the first one runs; resolves to options for deno there. */
function preparingGuests(): Promise<string> {
  return preparation ??= (async () => {
    await prepareKernel();
    await fetchModules(...await testFiles(/./), "tests/vm/host/container_guest.ts");
    return await importMapOption();
  })();
}

/** Without the bundle the guest takes some minutes longer, and is the same. */
async function importMapOption(): Promise<string> {
  try {
    return `'--import-map=${await bundledImportMap()}'`;
  } catch (error) {
    console.log(`    ${errorText(error)}`);
    return "";
  }
}

/**
 * Runs tests, and once more the few that failed: a machine that others use too can stall one past
 * any deadline, which says nothing of the program. What passes only then is named at the end.
 *
 * @param run the tests that the filter lets pass, with what they leave in this directory
 */
async function testTwice(
  directory: string,
  run: (directory: string, filter?: string) => Promise<TestRun>,
): Promise<Report> {
  const first = await run(directory);
  const report = judge(first);
  const filter = filterOfFailed(first, report);
  if (filter === undefined) return report;
  console.log(`    ${basename(directory)}: ${report.failures.length} failed, tried once more`);
  const again = join(directory, "again");
  await Deno.mkdir(again, { recursive: true });
  return judgeAgain(report, await run(again, filter));
}

/** All files of tests, relative to the repository, whose path matches. */
async function testFiles(pattern: RegExp): Promise<string[]> {
  const files: string[] = [];
  const visit = async (directory: string): Promise<void> => {
    for await (const { name, isDirectory } of Deno.readDir(join(root, directory))) {
      const path = join(directory, name);
      if (isDirectory) await visit(path);
      else if (name.endsWith("_test.ts") && pattern.test(path)) files.push(path);
    }
  };
  await visit("tests");
  return files.sort();
}

/** What is decided, written or moved without a queue pair is the same with either provider. */
const SAME_WITH_EITHER = new RegExp(
  "^tests/(vm/|tls/|cli/|security/|services/(unfinished_files|file_(refusals|system))" +
    "|attacks/(impersonation|limits|privileges)_|session/(audit|bad_exchange|identity|ktls_sessions|policy" +
    "|refusals|resumed_identity|sealing|session_limits|stream_data_path)_)",
);

/** Whether a test file, relative to the repository, shows nothing in the guest that it does not show here. */
export function sameWithEither(file: string): boolean {
  return SAME_WITH_EITHER.test(file);
}

/** Tests that hold for both providers import provider.ts, which says which one it is. */
async function providerTests(): Promise<string[]> {
  const importers = await importersOf("/tests/provider.ts", /^tests\//);
  return importers.filter((file) => !sameWithEither(file));
}

/** Tests whose path matches and that import this module, however indirectly. */
async function importersOf(module: string, pattern: RegExp): Promise<string[]> {
  const files: string[] = [];
  for (const file of await testFiles(pattern)) {
    const { output } = await runDeno(["info", "--json", file], 60);
    if (output.includes(module)) files.push(file);
  }
  return files;
}

function noTests(pattern: RegExp): Report {
  return failed("no tests", `no test file matches ${pattern}`);
}

/** What a run of deno has around it. */
interface Surroundings {
  readonly environment?: Record<string, string>;
  /** A program, and its arguments before those that name what it runs. */
  readonly wrapper?: readonly string[];
}

/** Only root may make namespaces everywhere. */
const mayPartNetworks = Deno.uid() === 0;

/**
 * Runs a program with a loopback interface of its own, so that it meets nobody at a port, and with
 * what else goes with a network: what the kernel says of it, and the counters of running ports.
 */
const ownNetwork: Surroundings = {
  wrapper: mayPartNetworks
    ? [
      ...["unshare", "--net", "--mount", "sh", "-c"],
      "mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /dev/shm && " +
      'ip link set lo up && exec "$@"',
      "sh",
    ]
    : [],
};

/** Runs deno in the repository; a run that takes too long has no status. */
async function runDeno(
  args: string[],
  seconds: number,
  { environment = {}, wrapper = [] }: Surroundings = {},
): Promise<{ status: number | undefined; output: string }> {
  const [program, ...rest] = [...wrapper, Deno.execPath(), ...args];
  const child = new Deno.Command(program!, {
    args: rest,
    cwd: root,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1", VERBSEAL: EXECUTABLE, ...environment },
  }).spawn();
  let hung = false;
  const timer = setTimeout(() => {
    hung = true;
    child.kill("SIGTERM");
  }, seconds * 1000);
  let output = "";
  const collect = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) output += text;
  };
  const [{ code }] = await Promise.all([
    child.status,
    collect(child.stdout),
    collect(child.stderr),
  ]);
  clearTimeout(timer);
  return hung
    ? { status: undefined, output: `${output}\nended after ${seconds} s` }
    : { status: code, output };
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Who may not part networks would have the lanes on this machine meet at their ports. */
function lanesOf(step: Step): Step {
  return step !== onThisMachine || mayPartNetworks ? step : [step.flat()];
}

async function runLane(lane: Lane): Promise<[Part, Report][]> {
  const outcomes: [Part, Report][] = [];
  for (const part of lane) outcomes.push([part, await runPart(part)]);
  return outcomes;
}

/** Resolves when no part installs anything. */
let installing: Promise<void> = Promise.resolve();

/** apt is for one at a time. */
function install({ needs, why }: Part): Promise<void> {
  const installed = installing.then(() => ensurePackages(needs, { why }));
  installing = installed.catch(() => {});
  return installed;
}

/**
 * What parts beside each other need: a guest's view of the host's files is not to change while it
 * runs on them (vm/init). What cannot be installed is the failure of who needs it.
 */
async function prepare(step: Step): Promise<void> {
  if (step.length > 1) { for (const part of step.flat()) await install(part).catch(() => {}); }
}

/** Runs one part and prints its lines; whatever it throws is its failure. */
async function runPart(part: Part): Promise<Report> {
  console.log(`${part.name.padEnd(9)} ...`);
  const start = performance.now();
  const directory = join(results, part.name);
  let report: Report;
  try {
    await Deno.mkdir(directory, { recursive: true });
    await install(part);
    report = await part.run(directory);
  } catch (error) {
    const remedy = error instanceof VerbsealError && error.remedy ? `\n${error.remedy}` : "";
    report = failed(part.name, errorText(error) + remedy);
  }
  const seconds = Math.round((performance.now() - start) / 1000);
  console.log(`${part.name.padEnd(9)} ${summary(report)} (${seconds} s)`);
  return report;
}

function summary({ passed, failures }: Report): string {
  return `${passed} passed, ${failures.length} failed`;
}

function printFailures(part: Part, { failures, unsteady = [] }: Report): void {
  print(`UNSTEADY, passed when tried again, ${part.name}`, unsteady);
  print(`FAILED ${part.name}`, failures);
}

function print(heading: string, failures: Failure[]): void {
  for (const { name, message } of failures) {
    const lines = message.trimEnd().split("\n");
    console.log(`\n${heading}: ${name}`);
    for (const line of lines.slice(0, MESSAGE_LINES)) console.log(`    ${line}`);
  }
}

if (import.meta.main) {
  const selection = Deno.args[0] ?? "all";
  const steps = SELECTIONS[selection];
  if (steps === undefined) {
    console.error(`deno task test takes nothing, host, vm or container, and not: ${selection}`);
    Deno.exit(2);
  }
  // What an earlier run left must not pass for this one's.
  await Deno.remove(results, { recursive: true }).catch(() => {});
  const total: Report = { passed: 0, failures: [] };
  const outcomes: [Part, Report][] = [];
  for (const step of steps) {
    await prepare(step);
    outcomes.push(...(await Promise.all(lanesOf(step).map(runLane))).flat());
  }
  for (const [part, report] of outcomes) {
    printFailures(part, report);
    total.passed += report.passed;
    total.failures.push(...report.failures);
  }
  console.log(`\n${summary(total)}`);
  if (total.failures.length > 0) Deno.exitCode = 1;
}
