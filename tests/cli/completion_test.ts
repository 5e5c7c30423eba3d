import { assertEquals } from "@std/assert";
import { Option } from "commander";
import { completionScript } from "../../lib/cli/completion.ts";
import { createProgram } from "../../lib/cli/program.ts";
import { beside, run } from "./run.ts";

const program = createProgram();
const client = program.command("client").summary("talk to the server's end");
client.command("put <host> <local-file> [remote-name]")
  .summary("send a file")
  .addOption(new Option("--seal <cipher>", "how to seal").choices(["aes-256-gcm", "off"]))
  .option("--ca <file>", "authority")
  .option("--root <directory>", "folder")
  .option("--port <number>", "port")
  .option("-q, --quiet", "say less");
client.command("show <host> <file...>").summary("print files");
program.command("serve").summary("be a server");

/**
 * How each shell is asked what it offers for the last word of each line, in the current folder:
 * one candidate a line, and an empty line after each answer. The script is the first argument.
 */
const askers: Record<"bash" | "zsh" | "fish", string[]> = {
  bash: [
    "bash",
    "-c",
    `source "$1"
    for line in "\${@:2}"; do
      read -ra COMP_WORDS <<< "$line"
      [[ $line == *" " ]] && COMP_WORDS+=("")
      COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
      _verbseal
      printf "%s\\n" "\${COMPREPLY[@]}" | sed '/^$/d'
      echo
    done`,
    "bash",
  ],
  zsh: ["timeout", "30", "zsh", "-f", beside("./complete.zsh")],
  fish: [
    "fish",
    "--no-config",
    "-c",
    `source $argv[1]
    for line in $argv[2..]
      complete -C "$line" | string replace -r "\\t.*" ""
      echo
    end`,
  ],
};

const everywhere = ["--help", "--json", "--log-format", "--log-level", "--version"];
const cases: [line: string, offered: string[]][] = [
  ["verbseal ", ["client", "serve"]],
  ["verbseal cl", ["client"]],
  ["verbseal --log-level ", ["debug", "error", "info", "warning"]],
  ["verbseal --log-level debug --json se", ["serve"]],
  ["verbseal serve --", everywhere],
  ["verbseal client ", ["put", "show"]],
  ["verbseal client put --seal ", ["aes-256-gcm", "off"]],
  ["verbseal client put --s", ["--seal"]],
  ["verbseal client put ", []],
  ["verbseal client put host ", ["data.bin", "photos/"]],
  ["verbseal client put --port 1 host d", ["data.bin"]],
  ["verbseal client put host data.bin ", []],
  ["verbseal client put --port ", []],
  ["verbseal client show ", []],
  ["verbseal client show host d", ["data.bin"]],
  ["verbseal client show host data.bin data.bin d", ["data.bin"]],
  ["verbseal client put --ca da", ["data.bin"]],
  ["verbseal client put --root ", ["photos/"]],
];

for (const [shell, asker] of Object.entries(askers)) {
  Deno.test(`${shell} offers commands, options, their values and files where they belong`, async () => {
    const folder = await Deno.makeTempDir();
    const script = await Deno.makeTempFile();
    try {
      const text = completionScript(program, shell as keyof typeof askers);
      await Deno.writeTextFile(script, text);
      await Deno.mkdir(`${folder}/photos`);
      await Deno.writeTextFile(`${folder}/data.bin`, "");
      const lines = cases.map(([line]) => line);
      const inFolder = ["-c", 'cd "$0" && exec "$@"', folder, ...asker, script, ...lines];
      const { stdout, stderr } = await run("sh", ...inFolder);
      assertEquals(stderr, "");
      assertEquals(answersIn(stdout).map((offered, index) => [lines[index], offered]), cases);
    } finally {
      await Deno.remove(folder, { recursive: true });
      await Deno.remove(script);
    }
  });
}

/** The candidates for each line, sorted. */
function answersIn(output: string): string[][] {
  const answers: string[][] = [];
  let offered = new Set<string>();
  for (const word of output.split("\n").slice(0, -1)) {
    if (word === "") {
      answers.push([...offered].sort());
      offered = new Set();
    } else {
      // Some shells add the slash of a folder only when they show it.
      offered.add(word === "photos" ? "photos/" : word);
    }
  }
  return answers;
}
