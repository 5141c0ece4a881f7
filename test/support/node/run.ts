// SPDX-License-Identifier: Apache-2.0
// Running one command of the system to its end: how the tests look at the kernel.
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { patience, patienceVariable } from "./patience.ts";

/** Options of {@link run}. */
export interface RunOptions {
  readonly stdin?: string | Uint8Array;
  /** The whole environment of the command; default {@link cleanEnv}. */
  readonly env?: Readonly<Record<string, string>>;
  /** The command is killed after this long, default 10000; times {@link patience}. */
  readonly timeoutMs?: number;
  /** Return instead of throwing when the exit code is not 0. */
  readonly mayFail?: boolean;
}

/** What a command printed and how it ended. */
export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
  /** Exit code; 128 + n for a command that signal n ended. */
  readonly code: number;
}

/** The environment commands and processes of the node start with: nothing of npm's or vitest's leaks into them. */
export function cleanEnv(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const factor = patience();
  const slow = factor === 1 ? {} : { [patienceVariable]: String(factor) };
  return { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/root", LC_ALL: "C", ...slow, ...extra };
}

/**
 * Runs a command to its end.
 *
 * @throws Error with the command, its exit code and its stderr unless `mayFail` is set; always when it cannot be started.
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { stdin = "", env = cleanEnv(), mayFail = false } = options;
  const timeoutMs = (options.timeoutMs ?? 10_000) * patience();
  const [file, ...args] = argv;
  if (file === undefined) throw new TypeError("Cannot run a command: it is empty");
  const child = spawn(file, args, { env, timeout: timeoutMs, killSignal: "SIGKILL" });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  // a command may end without having read its input
  child.stdin.on("error", () => {});
  child.stdin.end(stdin);
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (exitCode, signal) => resolve(exitCode ?? 128 + signalNumber(signal)));
  });
  const result = { stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString(), code };
  if (code !== 0 && !mayFail) {
    throw new Error(`Cannot run "${argv.join(" ")}": exit code ${code}: ${result.stderr.trim()}`);
  }
  return result;
}

/** The number of a signal as the shell adds it to 128. */
export function signalNumber(signal: NodeJS.Signals | null): number {
  return signal === null ? 0 : (constants.signals[signal] ?? 0);
}
