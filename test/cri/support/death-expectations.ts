// SPDX-License-Identifier: Apache-2.0
// What deaths of agents and uninstalls may do to the pods of a node, however many there are.
import { expect } from "vitest";
import { say } from "../../cluster/support/real-node.ts";
import type { DeathReport } from "../deaths.inside.ts";

/** Shorter than the launcher waits for an agent. */
const atOnceMs = 5000;

/** Says where the deaths fell and holds what followed against the limits. */
export function expectDeathsToHurtNobody(
  { deaths, installMs, uninstallMs }: DeathReport,
  count: number,
): void {
  const states = { bare: 0, "launcher only": 0, installed: 0 };
  for (const { chained, launcher } of deaths) {
    states[chained ? "installed" : launcher ? "launcher only" : "bare"] += 1;
  }
  const agents = deaths.filter(({ victim }) => victim === "agent").length;
  const longest = (times: readonly number[]): string => Math.max(...times).toFixed(0);
  say(
    `${agents} agents died while they started (which takes ${installMs.toFixed(0)} ms) and ${deaths.length - agents} uninstalls ` +
      `(${uninstallMs.toFixed(0)} ms): the node was left ` +
      Object.entries(states)
        .map(([state, times]) => `${state} ${times} times`)
        .join(", ") +
      `, with half a file ${deaths.filter(({ halves }) => halves > 0).length} times; the longest RunPodSandbox after a death took ` +
      `${longest(deaths.map(({ runMs }) => runMs))} ms, Stop and Remove ${longest(deaths.map(({ deleteMs }) => deleteMs))} ms`,
  );
  expect(deaths).toHaveLength(count);
  for (const { runMs, deleteMs } of deaths) expect(Math.max(runMs, deleteMs)).toBeLessThan(atOnceMs);
  // or the points were not random
  if (count >= 50) for (const times of Object.values(states)) expect(times).toBeGreaterThan(0);
}
