// SPDX-License-Identifier: Apache-2.0
// How long the launcher takes as a whole process, against a program that does nothing.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { cleanEnv } from "../support/node/run.ts";
import { p50, timed } from "./samples.ts";

/** Starts both in turn; VERSION needs no agent, so this is the launcher alone. */
export async function measureLauncher(samples: number): Promise<{ launcher: number; nothing: number }> {
  const launcher: number[] = [];
  const nothing: number[] = [];
  const env = cleanEnv({ CNI_COMMAND: "VERSION" });
  for (let i = 0; i < samples; i++) {
    nothing.push(await timed(() => runToEnd("/bin/true", env)));
    launcher.push(await timed(() => runToEnd(join(PLUGIN_DIR, "ambient-cni"), env)));
  }
  return { launcher: p50(launcher), nothing: p50(nothing) };
}

async function runToEnd(path: string, env: Record<string, string>): Promise<void> {
  const child = spawn(path, [], { env, stdio: ["pipe", "ignore", "ignore"] });
  child.stdin.on("error", () => {});
  child.stdin.end('{"cniVersion":"1.0.0"}');
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`Cannot measure "${path}": it ended with ${code}`);
}
