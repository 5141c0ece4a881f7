// SPDX-License-Identifier: Apache-2.0
// `npm run -s demo -- --exec COMMAND`: a command of ambient-cni in the node of a demo that stays up, with its agent's settings.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { AGENT_BUNDLE } from "../support/node/agent-process.ts";
import { signalNumber } from "../support/node/run.ts";
import { findKeptDemo } from "./kept-demo.ts";

/** Of a terminal, for colours. */
const forwardedNames = ["NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM"] as const;

/** Runs the command with our standard streams. @returns its exit code; 1 after one sentence on stderr when no demo stays up */
export async function execInDemo(args: readonly string[]): Promise<number> {
  if (process.getuid?.() !== 0) {
    process.stderr.write("demo: Cannot enter the demo's node: this needs root, and you are not root\n");
    return 1;
  }
  const demo = await findKeptDemo();
  if (demo === undefined) {
    const remedy = 'start one in another terminal, "npm run demo -- --keep", and wait until it says so';
    process.stderr.write(`demo: Cannot run "${args.join(" ")}": no demo stays up; ${remedy}\n`);
    return 1;
  }
  const env: Record<string, string> = { ...demo.env };
  for (const name of forwardedNames) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  const enter = ["--mount", "--net", "--pid", "--target", String(demo.pid), "--"];
  const child = spawn("nsenter", [...enter, process.execPath, AGENT_BUNDLE, ...args], {
    env,
    stdio: "inherit",
  });
  // Ctrl-C reaches the command itself, which ends with it; other signals come to us alone
  process.on("SIGINT", () => {});
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => endBelow(child.pid, signal));
  const [code, signal] = (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
  return code ?? 128 + signalNumber(signal);
}

/** nsenter forks for the pid namespace and passes nothing on. Source: proc_tid_children(5). */
function endBelow(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    for (const child of readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" "))
      if (Number(child) > 0) process.kill(Number(child), signal);
  } catch {
    // it has ended already
  }
}
