/** A program of Verbseal's frame with commands that fail or print as they are told. */
import * as errors from "../../lib/errors.ts";
import { outputOf } from "../../lib/cli/output.ts";
import { createProgram, runProgram } from "../../lib/cli/program.ts";

const surprises: Record<string, () => unknown> = {
  exception: () => {
    throw new TypeError("surprise\n  in two lines");
  },
  rejection: () => {
    Promise.reject(new TypeError("surprise\n  in two lines"));
    return new Promise(() => {});
  },
  later: () =>
    new Promise(() => {
      setTimeout(() => {
        throw new TypeError("surprise\n  in two lines");
      });
    }),
  escape: () => {
    throw new errors.VerbsealError("escape", "the server said \x1b[2J\u202e");
  },
};

const program = createProgram();
program.command("fail <kind>").action(async (kind: string) => {
  await surprises[kind]?.();
  const FailureClass = errors[kind as "TlsError"];
  throw new FailureClass("it_failed", "It failed", "Try again");
});
program.command("print <lines>").action((lines: string, _options, command) => {
  for (let line = 1; line <= Number(lines); line++) {
    outputOf(command).result({ line, address: 2n ** 64n - 1n }, `line ${line}`);
  }
});
Deno.exit(await runProgram(program, Deno.args));
