import { join } from "node:path";
import { assertEquals, assertStringIncludes } from "@std/assert";
import { filterOfFailed, judge, judgeAgain, type Report, type TestRun } from "./report.ts";

/** Runs `deno test` for real over files with these contents; helpers lie beside them. */
async function run(
  sources: Record<string, string>,
  helpers: Record<string, string> = {},
  filter?: string,
): Promise<TestRun> {
  const directory = await Deno.makeTempDir();
  const filtered = filter === undefined ? [] : [`--filter=${filter}`];
  try {
    for (const [file, source] of Object.entries({ ...sources, ...helpers })) {
      await Deno.writeTextFile(join(directory, file), source);
    }
    const files = Object.keys(sources);
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      // What the tests here write down has no types to check.
      args: ["test", "--no-check", "--no-config", "--junit-path=junit.xml", ...filtered, ...files],
      cwd: directory,
      env: { NO_COLOR: "1" },
    }).output();
    return {
      files,
      status: code,
      output: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr),
      junit: await Deno.readTextFile(join(directory, "junit.xml")),
    };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

function names(report: Report): string[] {
  return report.failures.map((failure) => failure.name);
}

Deno.test("judge counts tests that pass", async () => {
  const report = judge(
    await run({ "a_test.ts": `Deno.test("one", () => {}); Deno.test("two", () => {});` }),
  );
  assertEquals(report, { passed: 2, failures: [] });
});

Deno.test("judge gives the name and message of a failing test as they were written", async () => {
  const report = judge(
    await run({
      "a_test.ts": `Deno.test("a <b> & \\"c\\"", () => { throw new Error("it's <not> & so"); });`,
    }),
  );
  assertEquals(names(report), [`a <b> & "c"`]);
  assertStringIncludes(report.failures[0]?.message ?? "", "it's <not> & so");
});

Deno.test("judge counts a file whose module throws as failed beside files that pass", async () => {
  const report = judge(
    await run({
      "a_test.ts": `Deno.test("one", () => {});`,
      "b_test.ts": `throw new Error("broken at the top");`,
    }),
  );
  assertEquals(report.passed, 1);
  assertEquals(names(report), ["b_test.ts"]);
  assertStringIncludes(report.failures[0]?.message ?? "", "broken at the top");
});

Deno.test("judge counts a file without tests and a switched-off test as failed", async () => {
  const report = judge(
    await run({
      "a_test.ts": `Deno.test.ignore("off", () => {}); Deno.test("on", () => {});`,
      "b_test.ts": `console.log("nothing here");`,
    }),
  );
  assertEquals(report.passed, 1);
  assertEquals(names(report), ["off", "b_test.ts"]);
});

Deno.test("judge knows a file whose tests a helper defines as one that ran", async () => {
  const helped = await run({
    "a_test.ts": `import { define } from "./define.ts"; define("one");`,
  }, { "define.ts": `export const define = (name) => Deno.test(name, () => {});` });
  assertEquals(judge(helped), { passed: 1, failures: [] });
});

Deno.test("judge counts a run without a report as one failure with the end of its output", () => {
  const report = judge({ files: [], status: 139, output: "last words", junit: undefined });
  assertEquals(report.passed, 0);
  assertStringIncludes(report.failures[0]?.message ?? "", "139");
  assertStringIncludes(report.failures[0]?.message ?? "", "last words");
});

Deno.test("judge believes a bad exit status more than a clean report", async () => {
  const clean = await run({ "a_test.ts": `Deno.test("one", () => {});` });
  assertEquals(judge({ ...clean, status: 1 }).failures.length, 1);
});

Deno.test("a test that passes when it is tried again is passed and unsteady, another one stays failed", async () => {
  const broken = `Deno.test("broken [a|b] (c) <d>", () => { throw new Error("for good"); });`;
  const other = `Deno.test("other", () => { throw new Error("is not to be tried"); });`;
  const disturbed = (failure: string) => `Deno.test("disturbed? *1.5*", () => { ${failure} });`;
  const first = await run({ "a_test.ts": broken + disturbed('throw new Error("once");') });
  const report = judge(first);
  const filter = filterOfFailed(first, report)!;
  const again = await run({ "a_test.ts": broken + disturbed("") + other }, {}, filter);
  const { passed, failures, unsteady } = judgeAgain(report, again);
  assertEquals([passed, failures.map(({ name }) => name)], [1, ["broken [a|b] (c) <d>"]]);
  assertEquals(unsteady?.map(({ name }) => name), ["disturbed? *1.5*"]);
  assertStringIncludes(unsteady?.[0]?.message ?? "", "once");
  assertEquals(again.output.includes("is not to be tried"), false);
});

Deno.test("nothing is tried again where all passed, where many tests failed, or something else did", async () => {
  const failing = (count: number) =>
    Array.from({ length: count }, (_, i) => `Deno.test("${i}", () => { throw 1; });`).join("\n");
  const filters = [];
  for (const source of [`Deno.test("one", () => {});`, failing(4)]) {
    const first = await run({ "a_test.ts": source });
    filters.push(filterOfFailed(first, judge(first)));
  }
  const silent = await run({ "a_test.ts": `Deno.test("one", () => {});`, "b_test.ts": "" });
  filters.push(filterOfFailed(silent, judge(silent)));
  assertEquals(filters, [undefined, undefined, undefined]);
});

Deno.test("what an uncaught error has cut off is failed, and nothing beside it is tried again", async () => {
  const first = await run({
    "a_test.ts": `Deno.test("disturbed", () => { throw new Error("once"); });`,
    "b_test.ts": `Deno.test("cut off", () => {
        setTimeout(() => { throw new Error("nobody's"); });
        return new Promise((resolve) => setTimeout(resolve, 1000));
      });
      Deno.test("never begun", () => {});`,
  });
  const report = judge(first);
  assertEquals(names(report).includes("disturbed"), true);
  assertEquals(names(report).length > 1, true);
  assertEquals(filterOfFailed(first, report), undefined);
  const again = { ...first, junit: first.junit!.replaceAll(/<(failure|error)[^]*?<\/\1>/g, "") };
  assertEquals(judgeAgain(report, again).unsteady, []);
});

Deno.test("an attack that has succeeded once is not tried again", async () => {
  const first = await run({
    "a_test.ts": `Deno.test("attack", () => { throw new Error("succeeded in spite of all"); });`,
  });
  assertEquals(filterOfFailed(first, judge(first)), undefined);
});
