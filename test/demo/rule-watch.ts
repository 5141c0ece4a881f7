// SPDX-License-Identifier: Apache-2.0
// The proof that nobody wrote a rule for a while.

import { claim } from "../support/node/claim.ts";
import { rulesWithHandles } from "../support/node/kernel.ts";
import type { Pod } from "../support/node/pod.ts";
import { RuleMonitor } from "../support/node/rule-monitor.ts";

/**
 * Watches the rules of pods.
 *
 * @returns a function that ends the watch. It throws ClaimError when the kernel announced any change since, or when a rule
 * has another handle than before.
 */
export async function watchRules(pods: Iterable<Pod>): Promise<() => Promise<void>> {
  const watched = await Promise.all(
    [...pods].map(async (pod) => ({
      pod,
      monitor: await RuleMonitor.start(pod.netns),
      handles: await rulesWithHandles(pod.netns),
    })),
  );
  return async () => {
    for (const { pod, monitor, handles } of watched) {
      const after = await rulesWithHandles(pod.netns);
      await monitor.kill();
      const { name } = pod.spec;
      claim(handles !== "", `"${name}" has no rules to watch`);
      claim(monitor.changes.length === 0, `rules of "${name}" were written: ${monitor.changes.join("; ")}`);
      claim(after === handles, `rules of "${name}" have other handles than before`);
    }
  };
}
