import { Argument, type Command, type Option } from "commander";
import { outputOf } from "./output.ts";
import { commandPath, examples } from "./program.ts";

/** Writes completions in the language of a shell. */
const writers = { bash: bashScript, zsh: zshScript, fish: fishScript };

/** Adds `verbseal completion`. */
export function addCompletionCommand(program: Command): void {
  program.command("completion")
    .summary("print a script that completes verbseal's words in a shell")
    .description("Print a script that completes verbseal's commands, options and files in a shell.")
    .addArgument(new Argument("<shell>", "the shell").choices(Object.keys(writers)))
    .addHelpText(
      "after",
      examples(
        ["source <(verbseal completion bash)", "in ~/.bashrc"],
        ["source <(verbseal completion zsh)", "in ~/.zshrc, after compinit"],
        [
          "verbseal completion fish > ~/.config/fish/completions/verbseal.fish",
          "once; fish finds it there",
        ],
      ),
    )
    .action((shell: keyof typeof writers, _options: unknown, command: Command) => {
      const script = completionScript(program, shell);
      outputOf(command).result({ shell, script }, script);
    });
}

/** The script that completes the commands of `program`; it calls nothing but the shell. */
export function completionScript(program: Command, shell: keyof typeof writers): string {
  return writers[shell](placesOf(program)).trimEnd();
}

/** What may stand where a value is expected: words, or what the shell finds on disk. */
type Candidates = readonly Word[] | "file" | "directory";

interface Word {
  readonly text: string;
  readonly description: string;
}

/** A command, and what may follow it. */
interface Place {
  readonly path: string;
  readonly options: readonly Word[];
  /** Candidates for the value of each option that takes one. */
  readonly optionValues: ReadonlyMap<string, Candidates>;
  /** Candidates for each argument that is not an option. */
  readonly arguments: readonly Candidates[];
  /** The last of them may be given again and again. */
  readonly variadic: boolean;
}

function placesOf(command: Command): Place[] {
  const options = optionsOf(command);
  const names = (option: Option) => [option.long, option.short].filter((name) => name != null);
  const place: Place = {
    path: commandPath(command),
    options: options.flatMap((option) =>
      names(option).slice(0, 1).map((text) => ({ text, description: option.description }))
    ),
    optionValues: new Map(
      options.filter((option) => option.required || option.optional)
        .flatMap((option) => names(option).map((name) => [name, valuesOfOption(option)])),
    ),
    arguments: command.commands.length > 0
      ? [command.commands.map((each) => ({ text: each.name(), description: each.summary() }))]
      : command.registeredArguments.map((argument) =>
        candidates(argument.name(), argument.argChoices)
      ),
    variadic: command.registeredArguments.at(-1)?.variadic === true,
  };
  return [place, ...command.commands.flatMap(placesOf)];
}

/** Those of the command and those that are understood everywhere. */
function optionsOf(command: Command): Option[] {
  const help = command.createHelp();
  help.showGlobalOptions = true;
  return [...help.visibleOptions(command), ...help.visibleGlobalOptions(command)];
}

function valuesOfOption(option: Option): Candidates {
  return candidates(/[<[](.*)[>\]]/.exec(option.flags)?.[1] ?? "", option.argChoices);
}

/** What a value is shows in the name that the help gives it: `<file>`, `<directory>`. */
function candidates(name: string, choices: readonly string[] | undefined): Candidates {
  if (choices) return choices.map((text) => ({ text, description: "" }));
  if (/directory/.test(name)) return "directory";
  return /file/.test(name) ? "file" : [];
}

/** One line a candidate, with a tab before its description; `:file`, `:directory` for the shell's. */
function linesOf(candidates: Candidates): string[] {
  return typeof candidates === "string"
    ? [`:${candidates}`]
    : candidates.map(({ text, description }) => description ? `${text}\t${description}` : text);
}

/** A table from what the shell knows to what may follow; a star at the end is any position. */
function tables(places: readonly Place[]) {
  return {
    commands: places.slice(1).map(({ path }) => path),
    valued: places.flatMap(({ path, optionValues }) =>
      [...optionValues.keys()].map((name) => `${path} ${name}`)
    ),
    optionValues: places.flatMap(({ path, optionValues }): [string, string[]][] =>
      [...optionValues].map(([name, values]) => [`${path} ${name}`, linesOf(values)])
    ),
    options: places.map(({ path, options }): [string, string[]] => [path, linesOf(options)]),
    arguments: places.flatMap(({ path, arguments: values, variadic }): [string, string[]][] =>
      values.map((value, position) => {
        const any = variadic && position === values.length - 1;
        return [`${path} ${any ? "*" : position}`, linesOf(value)];
      })
    ),
  };
}

/** In the language that bash and zsh share; the last argument is the word to complete. */
function candidatesFunction(places: readonly Place[]): string {
  const { commands, valued, optionValues, options, arguments: values } = tables(places);
  const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const pattern = (text: string) => quote(text).replace(/\*'$/, "'*");
  const patterns = (texts: string[]) => texts.map(quote).join("|");
  const print = (lines: string[]) =>
    lines.length === 0 ? "" : `printf '%s\\n' ${lines.map(quote).join(" ")}`;
  const cases = (table: [string, string[]][]) =>
    table.map(([key, lines]) => `      ${pattern(key)}) ${print(lines)} ;;`).join("\n");
  return `
_verbseal_candidates() {
  local place=verbseal position=0 option=
  while [ $# -gt 1 ]; do
    case "$place $1" in
      ${patterns(commands)}) place="$place $1" ;;
      ${patterns(valued)}) if [ $# -eq 2 ]; then option=$1; else shift; fi ;;
      *' -'*) ;;
      *) position=$((position + 1)) ;;
    esac
    shift
  done
  if [ -n "$option" ]; then
    case "$place $option" in
${cases(optionValues)}
    esac
    return
  fi
  case "$1" in
    -*) case "$place" in
${cases(options)}
    esac ;;
    *) case "$place $position" in
${cases(values)}
    esac ;;
  esac
}
`.trim();
}

function bashScript(places: readonly Place[]): string {
  return `# Completes verbseal in bash: source <(verbseal completion bash)
${candidatesFunction(places)}
_verbseal() {
  local line current=\${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  while IFS= read -r line; do
    case "$line" in
      :file) compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
      :directory) compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
      "$current"*) COMPREPLY+=("\${line%%$'\\t'*}") ;;
    esac
  done < <(_verbseal_candidates "\${COMP_WORDS[@]:1:COMP_CWORD}")
}
complete -F _verbseal verbseal
`;
}

function zshScript(places: readonly Place[]): string {
  return `#compdef verbseal
# Completes verbseal in zsh: source <(verbseal completion zsh), or as _verbseal in a folder of fpath
${candidatesFunction(places)}
_verbseal() {
  local line
  local -a described
  while IFS= read -r line; do
    case "$line" in
      :file) _files ;;
      :directory) _files -/ ;;
      *) described+=("\${line//$'\\t'/:}") ;;
    esac
  done < <(_verbseal_candidates "\${(@)words[2,CURRENT]}")
  (( $#described )) && _describe verbseal described
}
if [ "$funcstack[1]" = _verbseal ]; then _verbseal "$@"; else compdef _verbseal verbseal; fi
`;
}

function fishScript(places: readonly Place[]): string {
  const { commands, valued, optionValues, options, arguments: values } = tables(places);
  const quote = (text: string) => `'${text.replaceAll(/[\\']/g, "\\$&")}'`;
  const patterns = (texts: string[]) => texts.map(quote).join(" ");
  const print = (lines: string[]) =>
    lines.length === 0 ? "" : `printf '%s\\n' ${lines.map(quote).join(" ")}`;
  const cases = (table: [string, string[]][]) =>
    table.map(([key, lines]) => `      case ${quote(key)}; ${print(lines)}`).join("\n");
  return `# Completes verbseal in fish: verbseal completion fish > ~/.config/fish/completions/verbseal.fish
function __verbseal_candidates
  set -l words (commandline -opc)[2..] (commandline -ct)
  set -l place verbseal
  set -l position 0
  set -l option ''
  while test (count $words) -gt 1
    switch "$place $words[1]"
      case ${patterns(commands)}
        set place "$place $words[1]"
      case ${patterns(valued)}
        if test (count $words) -eq 2; set option $words[1]; else; set -e words[1]; end
      case '* -*'
      case '*'
        set position (math $position + 1)
    end
    set -e words[1]
  end
  if test -n "$option"
    switch "$place $option"
${cases(optionValues)}
    end
  else if string match -q -- '-*' "$words[1]"
    switch "$place"
${cases(options)}
    end
  else
    switch "$place $position"
${cases(values)}
    end
  end
end
function __verbseal_complete
  for line in (__verbseal_candidates)
    switch $line
      case :file; __fish_complete_path (commandline -ct)
      case :directory; __fish_complete_directories (commandline -ct)
      case '*'; echo $line
    end
  end
end
complete -c verbseal -f -a '(__verbseal_complete)'
`;
}
