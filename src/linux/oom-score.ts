// SPDX-License-Identifier: Apache-2.0
// Which process the kernel ends first when memory runs out.
import { writeFile } from "node:fs/promises";

/** The highest of `oom_score_adj`: before all others that do not have it. Source: proc_pid_oom_score_adj(5). */
const FIRST = 1000;

/**
 * Puts this process before others: one for people, in the agent's container, must not cost the agent. A process may always be made
 * likelier to end.
 * @throws Error where /proc is not there
 */
export async function beFirstToEnd(): Promise<void> {
  await writeFile("/proc/self/oom_score_adj", String(FIRST));
}
