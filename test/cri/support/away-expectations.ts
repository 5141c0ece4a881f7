// SPDX-License-Identifier: Apache-2.0
// What an absence of the agent may cost, whether it is short or long.
import { expect } from "vitest";
import { say } from "../../cluster/support/real-node.ts";
import type { AwayTimes } from "../agent-away.inside.ts";

/** Says the times and holds them against the limits. */
export function expectAwayToHurtNobody(times: AwayTimes, limits: { agentWaitSeconds: number }): void {
  const list = (values: readonly number[]): string => values.map((ms) => ms.toFixed(0)).join(", ");
  const failed = times.attempts.filter(({ error }) => error !== undefined);
  say(
    `agent away: Stop and Remove ${list(times.dels)} ms, exempt pods ${list(times.exempt)} ms, after a boot ${list(times.afterBoot)} ms; its process was ready after ` +
      `${list([times.ready])} ms; mesh pods ran ${list(times.meshPods)} ms after its start, which is ` +
      `${list(times.meshPods.map((ms) => ms - times.ready))} ms after it was ready, others ${list(times.unsurePods)} ms after its ` +
      `start; ${failed.length} of ${times.attempts.length} attempts failed`,
  );
  // the launcher's shortest patience
  for (const ms of [...times.dels, ...times.exempt, ...times.afterBoot]) expect(ms).toBeLessThan(2000);
  // it is back when /readyz says so: how long a process takes to get there is the machine's affair
  for (const ms of [...times.meshPods, ...times.unsurePods]) expect(ms - times.ready).toBeLessThan(2000);
  expect(failed.length).toBeGreaterThan(0);
  for (const { error, code, ms } of failed) {
    expect(code).toBe("UNKNOWN");
    expect(error).toMatch(awayMessage(limits.agentWaitSeconds));
    // the sandbox is made and taken down again besides; how long the launcher waited, it says itself
    expect(ms).toBeLessThan(1000 * limits.agentWaitSeconds + 3000);
  }
}

function awayMessage(seconds: number): RegExp {
  return new RegExp(
    [
      'plugin type="ambient-cni"(?: name="podnet")? failed \\(add\\): Cannot get an answer from the ambient-cni agent of this node',
      "ADD of pod (?:mesh|opted|new)/POD",
      "the socket does not exist, so the agent has not started",
      `waited ${seconds}(?:\\.\\d+)? s`,
      "The pod is held because pods of its namespace may belong to the mesh",
      "look at the agent's DaemonSet, istio-cni-node or ambient-cni-node: kubectl -n istio-system get pods",
    ].join(".*"),
  );
}
