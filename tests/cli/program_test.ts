import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Command } from "commander";
import manifest from "../../deno.json" with { type: "json" };
import { commandPath } from "../../lib/cli/program.ts";
import { program } from "../../main.ts";
import { beside, run, verbseal } from "./run.ts";

/** Runs a small program of the same frame whose command throws or prints what it is told to. */
function frame(...args: string[]) {
  return run(Deno.execPath(), "run", "-A", "--no-check", beside("./frame.ts"), ...args);
}

Deno.test("without arguments the help goes to standard error and the exit code is 2", async () => {
  const { code, stdout, stderr } = await verbseal();
  assertEquals([code, stdout], [2, ""]);
  assertMatch(stderr, /^Usage: verbseal \[options\] \[command\]/);
});

Deno.test("the version is that of the manifest", async () => {
  assertEquals(await verbseal("--version"), {
    code: 0,
    stdout: `${manifest.version}\n`,
    stderr: "",
  });
});

Deno.test("the help is shown on a terminal without leave to read or ask anything", async () => {
  const command = `${Deno.execPath()} run --no-prompt --no-check ${beside("./frame.ts")} --help`;
  const { code, stdout } = await run("script", "-qec", command, "/dev/null");
  assertEquals(code, 0, stdout);
  assertMatch(stdout, /^Usage: verbseal/);
});

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)];
}

/** All that `--help` prints, with what is added after the help proper. */
function helpOf(command: Command): string {
  let text = "";
  command.configureOutput({ writeOut: (part) => text += part });
  command.outputHelp();
  return text;
}

for (const command of everyCommand(program).slice(1)) {
  Deno.test(`the help of ${commandPath(command)} describes it and ends with examples`, () => {
    const [, examples = ""] = helpOf(command).split("\nExamples:\n");
    assert(command.description().endsWith("."), "its description is no sentence");
    assert(command.summary() !== "", "it has no summary");
    assertStringIncludes(examples, `verbseal ${commandPath(command).split(" ")[1]}`);
  });
}

Deno.test("a mistyped option is guessed, and the help to read is named", async () => {
  const { code, stdout, stderr } = await verbseal("certs", "init", "--directry", "x");
  assertEquals([code, stdout], [2, ""]);
  assertEquals(
    stderr,
    "verbseal: unknown option '--directry'. Did you mean --directory? " +
      "See verbseal certs init --help.\n",
  );
});

Deno.test("with --json a mistake is also an object on standard output", async () => {
  const { code, stdout, stderr } = await verbseal("certs", "init", "--days", "x", "--json");
  assertEquals(code, 2);
  const { error } = JSON.parse(stdout);
  assertEquals(error.code, "usage");
  assertStringIncludes(error.message, "It must be a whole number from 1 to 825");
  assertEquals(error.remedy, "See verbseal certs init --help");
  assertStringIncludes(stderr, error.message);
});

for (
  const [name, code] of Object.entries({
    VerbsealError: 1,
    UsageError: 2,
    TlsError: 3,
    RdmaError: 4,
    RefusedError: 5,
    IntegrityError: 6,
    ProtocolError: 1,
  })
) {
  Deno.test(`${name} ends the program with ${code}, its sentence and its remedy`, async () => {
    const finished = await frame("fail", name);
    assertEquals(finished, { code, stdout: "", stderr: "verbseal: It failed. Try again.\n" });
  });
}

Deno.test("what nobody expected is one sentence and exit code 1, whenever it is thrown", async () => {
  for (const kind of ["exception", "rejection", "later"]) {
    const { code, stdout, stderr } = await frame("fail", kind);
    assertEquals([code, stdout], [1, ""], kind);
    assertMatch(stderr, /^verbseal: surprise in two lines\. Run it again with --log-level debug/);
    assertEquals(stderr.split("\n").length, 2, stderr);
  }
});

Deno.test("where it was thrown is shown with --log-level debug only", async () => {
  const { stderr } = await frame("fail", "exception", "--log-level", "debug");
  assertMatch(stderr, /\n {4}at .*frame\.ts/);
});

Deno.test("a message cannot move the cursor of the terminal", async () => {
  const { stderr } = await frame("fail", "escape");
  assertEquals(stderr.replace("\n", "").match(/\p{Cc}/u), null);
  assertStringIncludes(stderr, "\\u001b[2J");
});

Deno.test("results are text, or with --json one object per line with all digits", async () => {
  assertEquals((await frame("print", "2")).stdout, "line 1\nline 2\n");
  const { stdout } = await frame("print", "1", "--json");
  assertEquals(stdout, '{"line":1,"address":"18446744073709551615"}\n');
});

Deno.test("a reader that goes away does not end the program", async () => {
  const command = `${Deno.execPath()} run -A --no-check ${beside("./frame.ts")} print 20000`;
  const script = `{ ${command}; echo "code $?" >&2; } | head -1`;
  assertEquals(await run("bash", "-c", script), {
    code: 0,
    stdout: "line 1\n",
    stderr: "code 0\n",
  });
});

Deno.test("an output that cannot be written is an error", async () => {
  const command = `${Deno.execPath()} run -A --no-check ${beside("./frame.ts")} print 1`;
  const { code, stderr } = await run("bash", "-c", `${command} --json > /dev/full`);
  assertEquals(code, 1);
  assertMatch(stderr, /^verbseal: Standard output cannot be written: No space left/);
});
