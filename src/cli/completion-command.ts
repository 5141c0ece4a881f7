// SPDX-License-Identifier: Apache-2.0
// `ambient-cni completion SHELL`: what a shell needs to complete commands and options; made from the table of commands.
import { type Command, type CommandIo, parseCommandLine } from "./command.ts";
import { UsageError } from "./usage-error.ts";

/** What is completed of a command. */
export type Completable = Pick<Command, "name" | "summary" | "options">;

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript } as const;
type Shell = keyof typeof SCRIPTS;
const SHELLS = Object.keys(SCRIPTS) as Shell[];

/** The command, for all these commands. */
export function completionCommand(all: () => readonly Completable[]): Command {
  return {
    name: "completion",
    summary: "print completion for a shell: bash, zsh or fish",
    options: ["help"],
    help: `usage: ambient-cni completion bash|zsh|fish

Prints a script that completes commands, options and shells.

examples:
  source <(ambient-cni completion bash)
  ambient-cni completion zsh > "\${fpath[1]}/_ambient-cni"
  ambient-cni completion fish > ~/.config/fish/completions/ambient-cni.fish
`,
    run: async (args, io) => runCompletion(args, io, all()),
  };
}

function runCompletion(args: readonly string[], io: CommandIo, all: readonly Completable[]): number {
  const { positionals } = parseCommandLine("completion", args, {});
  const shell = SHELLS.find((known) => known === positionals[0]);
  if (shell === undefined || positionals.length > 1) {
    throw new UsageError(`completion takes one of ${SHELLS.join(", ")}; see ambient-cni completion --help`);
  }
  io.print(SCRIPTS[shell](all));
  return 0;
}

function optionWords({ name, options }: Completable): string {
  return [...options.map((option) => `--${option}`), ...(name === "completion" ? SHELLS : [])].join(" ");
}

function bashScript(all: readonly Completable[]): string {
  const cases = all.map((command) => `    ${command.name}) words="${optionWords(command)}" ;;`).join("\n");
  return `_ambient_cni() {
  local words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="${all.map(({ name }) => name).join(" ")} help"
  else
    case "\${COMP_WORDS[1]}" in
${cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _ambient_cni ambient-cni
`;
}

function zshScript(all: readonly Completable[]): string {
  const names = all.map(({ name, summary }) => `    '${name}:${summary.replaceAll("'", "")}'`).join("\n");
  const cases = all.map((command) => `    ${command.name}) compadd -- ${optionWords(command)} ;;`).join("\n");
  return `#compdef ambient-cni
_ambient_cni() {
  local -a commands
  commands=(
${names}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case "$words[2]" in
${cases}
  esac
}
if [ "$funcstack[1]" = "_ambient_cni" ]; then
  _ambient_cni "$@"
else
  compdef _ambient_cni ambient-cni
fi
`;
}

function fishScript(all: readonly Completable[]): string {
  const lines = all.flatMap(({ name, summary, options }) => [
    `complete -c ambient-cni -n __fish_use_subcommand -f -a ${name} -d '${summary.replaceAll("'", "")}'`,
    ...options.map(
      (option) => `complete -c ambient-cni -n '__fish_seen_subcommand_from ${name}' -f -l ${option}`,
    ),
  ]);
  lines.push(
    `complete -c ambient-cni -n '__fish_seen_subcommand_from completion' -f -a '${SHELLS.join(" ")}'`,
  );
  return `${lines.join("\n")}\n`;
}
