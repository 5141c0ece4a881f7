// SPDX-License-Identifier: Apache-2.0
// What a command is, and what it is given to work with.
import { type ParseArgsConfig, parseArgs } from "node:util";
import type { AgentConfig } from "../config.ts";
import { UsageError } from "./usage-error.ts";

/** Where a command reads its settings and writes its answer. */
export interface CommandIo {
  /** To stdout. */
  print(text: string): void;
  /** To stderr. */
  warn(text: string): void;
  /** stdout is a terminal. */
  readonly isTerminal: boolean;
  /** stderr is a terminal: progress may be shown there. */
  readonly showsProgress: boolean;
  /** stdout takes colours: a terminal that knows them, and no NO_COLOR. */
  readonly colours: boolean;
  /** Width of the terminal; undefined where stdout is none. */
  readonly columns: number | undefined;
  /** Aborted when nobody reads stdout any more. */
  readonly signal: AbortSignal;
  /** The same settings as the agent's. */
  config(): AgentConfig;
}

/** One command of the binary. */
export interface Command {
  readonly name: string;
  /** A few words for the list of commands. */
  readonly summary: string;
  /** Usage, options and examples. */
  readonly help: string;
  /** Long options without dashes, for completion. */
  readonly options: readonly string[];
  /**
   * Runs it; `--help` among the arguments has been dealt with.
   * @returns the exit code @throws UsageError; other errors are failures of the command, one sentence for people
   */
  run(args: readonly string[], io: CommandIo): Promise<number>;
}

/** parseArgs, strict, with usage errors. @throws UsageError */
export function parseCommandLine<T extends NonNullable<ParseArgsConfig["options"]>>(
  command: string,
  args: readonly string[],
  options: T,
) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(`${(error as Error).message}; see ambient-cni ${command} --help`);
  }
}

/** The same of a command that takes options alone. @throws UsageError */
export function parseOptions<T extends NonNullable<ParseArgsConfig["options"]>>(
  command: string,
  args: readonly string[],
  options: T,
) {
  const { values, positionals } = parseCommandLine(command, args, options);
  if (positionals.length > 0)
    throw new UsageError(`${command} takes no arguments; see ambient-cni ${command} --help`);
  return values;
}

/** A whole number of an option. @throws UsageError */
export function parseNumber(
  option: string,
  text: string,
  { min = 0, max }: { readonly min?: number; readonly max: number },
): number {
  if (/^\d{1,10}$/.test(text) && Number(text) >= min && Number(text) <= max) return Number(text);
  throw new UsageError(`cannot use --${option} "${text}": it must be a whole number from ${min} to ${max}`);
}

/** `NAMESPACE/POD`, the one argument of a command, or none. @throws UsageError */
export function parsePodName(
  command: string,
  [text, ...others]: readonly string[],
): { ns: string; name: string } | undefined {
  if (text === undefined) return undefined;
  if (others.length > 0) throw new UsageError(`give one pod or none; see ambient-cni ${command} --help`);
  const [ns = "", name = "", ...rest] = text.split("/");
  if (ns !== "" && name !== "" && rest.length === 0) return { ns, name };
  throw new UsageError(`cannot use "${text}": a pod is NAMESPACE/POD; see ambient-cni ${command} --help`);
}
