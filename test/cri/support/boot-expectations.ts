// SPDX-License-Identifier: Apache-2.0
// What a boot may cost, however many pods the node has.
import { expect } from "vitest";
import { say } from "../../cluster/support/real-node.ts";
import type { BootReport } from "../boot.inside.ts";

const maxAgentBytes = 200 * 1024 * 1024;
/** Default of the launcher for the answer of an agent that has taken the call. */
const answerSeconds = 60;

/** Says what happened and holds it against the limits. That no pod was lost has been seen inside. */
export function expectGoodBoot(
  report: BootReport,
  limits: { count: number; agentWaitSeconds: number },
): void {
  const [p50, p95, longest] = report.succeededMs.map((ms) => ms.toFixed(0));
  const failed = Object.values(report.failures).reduce((sum, each) => sum + each, 0);
  say(
    `boot: ${limits.count} pods ran after ${(report.totalMs / 1000).toFixed(1)} s, 8 at a time; RunPodSandbox p50 ${p50} ms, ` +
      `p95 ${p95} ms, longest ${longest} ms; ${failed} attempts failed, the longest after ` +
      `${report.longestFailedMs.toFixed(0)} ms; agent's peak ${(report.agentPeakBytes / 2 ** 20).toFixed(0)} MiB`,
  );
  expect(report.agentPeakBytes).toBeLessThan(maxAgentBytes);
  const deadlineMs = 1000 * (limits.agentWaitSeconds + answerSeconds);
  expect(Math.max(report.longestFailedMs, report.succeededMs[2])).toBeLessThan(deadlineMs);
  // an ADD that had to be repeated says why
  for (const reason of Object.keys(report.failures)) {
    expect(reason).toMatch(
      /^UNKNOWN: .*plugin type="ambient-cni".*(Cannot get an answer from the ambient-cni agent of this node.*kubectl|no ztunnel connection for .*kubectl)/,
    );
  }
}
