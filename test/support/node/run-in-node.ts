// SPDX-License-Identifier: Apache-2.0
// Lets a program re-execute itself inside a test node: the way of the demo and the benchmarks.
import { readFileSync } from "node:fs";
import { leftovers, tracesOf } from "./leftovers.ts";
import { NodeUnavailableError, startNode } from "./namespaces.ts";
import { cleanEnv } from "./run.ts";

const FORWARDED: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];

/**
 * Runs `entry` inside a test node with our standard streams and passes signals on; the second one ends the node at once.
 *
 * @param entry path of a TypeScript file that calls `followOuter`.
 * @param options.tools programs that the entry will need.
 * @returns its exit code, after nothing of the node is left (1 and what it is on stderr, should there be anything); 1 after one sentence on stderr when there can be no node.
 */
export async function runInNode(
  entry: string,
  args: readonly string[],
  options: { readonly tools?: readonly string[] } = {},
): Promise<number> {
  try {
    const env = cleanEnv();
    for (const name of ["NO_COLOR", "FORCE_COLOR", "TERM", "CI"]) {
      const value = process.env[name];
      if (value !== undefined) env[name] = value;
    }
    const node = await startNode(entry, { ...options, args, env });
    let signals = 0;
    const forward = (signal: NodeJS.Signals): void => {
      signals += 1;
      if (signals === 1) node.signal(signal);
      else node.kill();
    };
    for (const signal of FORWARDED) process.on(signal, forward);
    const unwatch = watchNpm(() => node.kill());
    node.started.catch((error: NodeUnavailableError) => process.stderr.write(`${error.message}\n`));
    const traces = node.started.then(() => tracesOf(node));
    traces.catch(() => {});
    const code = await node.exited;
    unwatch();
    for (const signal of FORWARDED) process.off(signal, forward);
    const left = await traces.then(leftovers, () => []);
    for (const line of left) process.stderr.write(`left behind: ${line}\n`);
    return left.length === 0 ? code : 1;
  } catch (error) {
    if (!(error instanceof NodeUnavailableError)) throw error;
    process.stderr.write(`${error.message}\n`);
    return 1;
  }
}

/** Calls `onGone` when the npm that started us was killed: the shell between npm and us does not pass that on. */
function watchNpm(onGone: () => void): () => void {
  const npm = process.env.npm_lifecycle_event === undefined ? undefined : findNpm();
  if (npm === undefined) return () => {};
  const timer = setInterval(() => {
    if (startTime(npm.pid) !== npm.startTime) onGone();
  }, 200);
  timer.unref();
  return () => clearInterval(timer);
}

function findNpm(): { pid: number; startTime: string } | undefined {
  for (let pid = process.ppid; pid > 1; ) {
    const stat = readStat(pid);
    if (stat === undefined) return undefined;
    if (stat.comm.startsWith("npm") || stat.comm.startsWith("node"))
      return { pid, startTime: stat.startTime };
    pid = stat.ppid;
  }
  return undefined;
}

function startTime(pid: number): string | undefined {
  return readStat(pid)?.startTime;
}

/** Source: proc_pid_stat(5); comm may hold spaces and brackets, so fields are counted from its last bracket. */
function readStat(pid: number): { comm: string; ppid: number; startTime: string } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const comm = text.slice(text.indexOf("(") + 1, text.lastIndexOf(")"));
    return { comm, ppid: Number(fields[1]), startTime: fields[0] === "Z" ? "dead" : (fields[19] ?? "") };
  } catch {
    return undefined;
  }
}
