import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { Command } from "commander";
import { UsageError } from "../../lib/errors.ts";
import { addLimitOptions, limitsOf } from "../../lib/cli/limit_options.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { MESSAGE_BYTES } from "../../lib/session/messenger.ts";

/** The options, as a server's command line gives them. */
function command(...args: string[]): Command {
  return addLimitOptions(new Command()).parse(args, { from: "user" });
}

Deno.test("without options the limits are the default ones", () => {
  assertEquals(limitsOf(command().opts()), defaultLimits);
});

Deno.test("every limit is in the help under a heading of its own, with its default", () => {
  const help = command().helpInformation();
  const [, limits = ""] = help.split("Limits:\n");
  const { options } = command();
  assertEquals(options.length, Object.keys(defaultLimits).length);
  for (const { long, defaultValue, defaultValueDescription } of options) {
    const [, about] = limits.split(`${long} <`);
    assert(about, `${long} is not among the limits`);
    const [, shown] = about.replace(/\s+/g, " ").split("(default: ");
    assertEquals(shown?.split(")")[0], defaultValueDescription ?? String(defaultValue));
  }
});

Deno.test("README tells each limit with its default and why", async () => {
  const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));
  const rows = readme.split("\n").map((line) => line.split("|").map((cell) => cell.trim()));
  for (const { long, defaultValue, defaultValueDescription } of command().options) {
    const row = rows.find(([, option]) => option === `\`${long}\``);
    assert(row, `${long} has no row`);
    const [, , limits, standard, why] = row;
    assertEquals(standard, defaultValueDescription ?? String(defaultValue), long ?? "");
    assert(limits && why, `${long} has no reason`);
  }
});

Deno.test("a limit is what its option says", () => {
  const changed = command(
    ...["--max-clients", "7", "--message-rate", "8", "--max-registered", "64MiB"],
    ...["--handshake-timeout", "1500ms"],
  );
  assertEquals(limitsOf(changed.opts()), {
    ...defaultLimits,
    clients: 7,
    messagesPerSecond: 8,
    registeredBytes: 2 ** 26,
    handshakeSeconds: 1.5,
  });
});

Deno.test("memory that is lent must leave room for messages in what a session may register", () => {
  const lending = (bytes: number) =>
    limitsOf(command("--max-registered", "2MiB", "--lent-memory", String(bytes)).opts());
  lending(2 ** 21 - MESSAGE_BYTES);
  const error = assertThrows(() => lending(2 ** 21 - MESSAGE_BYTES + 1), UsageError);
  assertStringIncludes(error.remedy, "--max-registered");
});

Deno.test("all sessions together may register as much as one, or more", () => {
  const all = (bytes: string) => limitsOf(command("--max-registered-in-all", bytes).opts());
  all("4MiB");
  assertThrows(() => all("4095k"), UsageError);
});
