// SPDX-License-Identifier: Apache-2.0
// The step of the demo in which the dashboard's numbers are held against the kernel's.

import type { PodRulesReport } from "../../src/dashboard/rules-report.ts";
import { normaliseRule } from "../../src/netfilter/rule-tokens.ts";
import { firstEvent } from "../dashboard/first-event.ts";
import { claim } from "../support/node/claim.ts";
import { iptablesSave, listeningSockets, ruleCounters } from "../support/node/kernel.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import type { Scene } from "./scene.ts";

/** The page is fed with the pods, and each counter of their rules, as the kernel has them. */
export async function dashboardShows(scene: Scene): Promise<string> {
  const captured = await claimStates(scene);
  let rules = 0;
  for (const pod of captured) rules += await claimCounters(scene, pod);
  return `${captured.length} pods captured on the page and in the kernel, ${rules} rules with the kernel's counters`;
}

/** @throws ClaimError unless exactly the pods that have rules and ztunnel's sockets are captured on the page. @returns those */
export async function claimStates({ mesh, dashboard }: Scene): Promise<Pod[]> {
  const pods = [...mesh.pods.pods];
  const inKernel = await Promise.all(pods.map(looksCaptured));
  const captured = pods.filter((_, index) => inKernel[index]);
  const wanted = names(captured);
  let shown = "";
  await waitFor("the page", async () => {
    const { pods: reports } = await firstEvent(dashboard.url);
    shown = names(
      reports
        .filter(({ state }) => state === "enrolled")
        .map(({ ns, name }) => ({ spec: { namespace: ns, name } })),
    );
    return shown === wanted;
  }).catch((error: Error) => {
    claim(false, `captured in the kernel: ${wanted}; on the page: ${shown}; ${error.message}`);
  });
  return captured;
}

/** Each rule's counter lies between two of the kernel's own, read before and after. @returns how many rules there were */
async function claimCounters({ dashboard }: Scene, pod: Pod): Promise<number> {
  const { namespace, name } = pod.spec;
  const before = await allCounters(pod);
  const report = await waitFor(`the rules of "${name}" on the page`, async () => {
    const response = await fetch(dashboard.at(`/api/v1/pods/${namespace}/${name}/rules`));
    const answer = (await response.json()) as PodRulesReport;
    // on a slow machine a look may end without an answer, and says so; the next has what the first has loaded
    claim(response.ok && answer.unread === null, `${response.status} ${answer.unread}`);
    return answer;
  });
  const after = await allCounters(pod);
  let rules = 0;
  for (const { family, rules: shown } of report.families) {
    for (const { table, chain, text, packets, state } of shown) {
      const rule = `IPv${family} ${oneSpelling(`${table} ${chain} ${text}`)}`;
      claim(state === "present", `the page calls "${rule}" ${state}`);
      const [low, high] = [before.get(rule), after.get(rule)];
      claim(low !== undefined && high !== undefined, `the kernel has no rule "${rule}" in "${name}"`);
      claim(
        low <= packets && packets <= high,
        `"${rule}" counted ${low} to ${high}, the page says ${packets}`,
      );
      rules += 1;
    }
  }
  const ours = [...after.keys()].filter((rule) => / ISTIO_(PRERT|OUTPUT) /.test(rule)).length;
  claim(rules === ours, `the page shows ${rules} rules of "${name}", the kernel has ${ours}`);
  return rules;
}

async function allCounters(pod: Pod): Promise<Map<string, number>> {
  const counters = new Map<string, number>();
  for (const family of [4, 6] as const) {
    for (const [rule, { packets }] of await ruleCounters(pod.netns, family))
      counters.set(`IPv${family} ${oneSpelling(rule)}`, packets);
  }
  return counters;
}

/** The page shows what iptables-restore is told, iptables-save what it makes of that. */
function oneSpelling(rule: string): string {
  const [table, chain, ...words] = rule.split(" ");
  return [table, chain, ...normaliseRule(words)].join(" ");
}

async function looksCaptured(pod: Pod): Promise<boolean> {
  const hasRules = (await iptablesSave(pod.netns, 4)).includes("ISTIO_OUTPUT");
  return hasRules && (await listeningSockets(pod.netns)).some(({ port }) => port === 15001);
}

function names(pods: readonly { readonly spec: Pick<Pod["spec"], "namespace" | "name"> }[]): string {
  return (
    pods
      .map(({ spec }) => `${spec.namespace}/${spec.name}`)
      .sort()
      .join(", ") || "none"
  );
}
