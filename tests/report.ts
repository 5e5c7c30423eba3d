/** Turns what a run of `deno test` left behind into tests passed and tests failed. */

/** Outcome of one part of the test run. */
export interface Report {
  passed: number;
  failures: Failure[];
  /** Failures of tests that passed when they were tried once more: they are among the passed. */
  unsteady?: Failure[];
}

/** A test that failed, or something that went wrong and counts as one. */
export interface Failure {
  name: string;
  message: string;
}

/** What a run of `deno test` left behind. */
export interface TestRun {
  /** Test files that were given to it, relative to the directory it ran in. */
  files: string[];
  /** Exit status; undefined if there is none, as it was killed. */
  status: number | undefined;
  /** All that it printed, without colours. */
  output: string;
  /** Its JUnit report; undefined if it did not come to write one. */
  junit: string | undefined;
}

/**
 * Counts a run's tests. Whatever is missing counts as failed: a report, a file without tests (its
 * module may have thrown, which the report does not show), a status that the report does not
 * explain, a test that is switched off.
 */
export function judge({ files, status, output, junit }: TestRun): Report {
  if (junit === undefined) {
    return failed("no report", `ended with status ${status}:\n${lastLines(output)}`);
  }
  const cases = readJunit(junit);
  const failures = cases.filter((each) => each.failure !== undefined)
    .map(({ name, failure = "" }) => ({ name, message: failure }));
  for (const file of files.filter((file) => !ranTestsOf(file, output))) {
    failures.push({ name: file, message: `ran no test:\n${lastLines(output)}` });
  }
  if (failures.length === 0 && status !== 0) {
    return failed("status", `all tests passed, yet it ended with ${status}:\n${lastLines(output)}`);
  }
  return { passed: cases.filter((each) => each.failure === undefined).length, failures };
}

/** More tests than this that fail in one run are broken, and not disturbed by what else went on. */
const DISTURBED = 3;

/** What speed has no part in: an attack that has succeeded (attacks/attack.ts). */
const NEVER_AGAIN = "succeeded in spite of";

/** How deno tells of an error outside of any test, after which the rest of its file is not run. */
const UNCAUGHT = "(uncaught error)";

/**
 * The filter for `deno test` by which a run's failed tests, and no others, can be tried once more.
 *
 * @returns `undefined` where trying again can mend nothing: none failed, too many did, or something
 *   other than a test
 */
export function filterOfFailed(
  { junit = "", output }: TestRun,
  { failures }: Report,
): string | undefined {
  const tests = new Set(readJunit(junit).map(({ name }) => name));
  if (failures.length === 0 || failures.length > DISTURBED) return undefined;
  if (output.includes(UNCAUGHT)) return undefined;
  const mayPass = ({ name, message }: Failure) => tests.has(name) && !message.includes(NEVER_AGAIN);
  if (!failures.every(mayPass)) return undefined;
  // Rust's syntax: it must not be given more escapes than it knows.
  const escaped = failures.map(({ name }) => name.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return `/^(?:${escaped.join("|")})$/`;
}

/** A run's report after its failed tests were tried once more: those that passed then are unsteady. */
export function judgeAgain(first: Report, { junit = "", status, output }: TestRun): Report {
  const cases = readJunit(junit);
  const failed = new Set(cases.filter(({ failure }) => failure !== undefined).map(nameOf));
  // A status that no failure explains says that not all of it was run.
  const isWhole = (status === 0 || failed.size > 0) && !output.includes(UNCAUGHT);
  const passed = new Set(isWhole ? cases.map(nameOf) : []).difference(failed);
  const unsteady = first.failures.filter(({ name }) => passed.has(name));
  const failures = first.failures.filter(({ name }) => !passed.has(name));
  return { passed: first.passed + unsteady.length, failures, unsteady };
}

/** Outcome of a part that is one failure. */
export function failed(name: string, message: string): Report {
  return { passed: 0, failures: [{ name, message }] };
}

/** The end of a long text, where the reason of a failure usually stands. */
export function lastLines(text: string): string {
  return text.trimEnd().split("\n").slice(-40).join("\n");
}

interface TestCase {
  name: string;
  failure?: string;
}

/** The report sorts tests by the file that defines them, which may be a helper: see the output. */
function ranTestsOf(file: string, output: string): boolean {
  return [...output.matchAll(/running [1-9]\d* tests? from \.\/(\S+)/g)]
    .some(([, path]) => path === file);
}

/** Test cases of the JUnit dialect that Deno's reporter writes. */
function readJunit(xml: string): TestCase[] {
  return [...xml.matchAll(/<testcase name="([^"]*)"[^>]*>(.*?)<\/testcase>/gs)].map(readCase);
}

function readCase([, name = "", body = ""]: RegExpMatchArray): TestCase {
  if (body.includes("<error")) return { name: decode(name), failure: "was not run to its end" };
  const failure = /<failure[^>]*>(.*?)<\/failure>/s.exec(body)?.[1];
  if (failure !== undefined) return { name: decode(name), failure: decode(failure) };
  if (body.includes("<skipped/>")) return { name: decode(name), failure: "is switched off" };
  return { name: decode(name) };
}

const entities: Record<string, string> = {
  "&lt;": "<",
  "&gt;": ">",
  "&quot;": '"',
  "&apos;": "'",
  "&amp;": "&",
};

function nameOf({ name }: TestCase): string {
  return name;
}

function decode(text: string): string {
  return text.replaceAll(/&(lt|gt|quot|apos|amp);/g, (entity) => entities[entity] ?? entity);
}
