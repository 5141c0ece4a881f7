// SPDX-License-Identifier: Apache-2.0
// The step that leads a pod's traffic to ztunnel: what is open already is counted or reset, rules and routes are made right.
import { NetlinkError } from "../linux/netlink/exchange.ts";
import type { Netns } from "../linux/netns.ts";
import { lookForBypasses } from "./bypass-step.ts";
import type { Step } from "./next-step.ts";
import type { Outcomes } from "./outcomes.ts";
import type { PodRecord } from "./pod-record.ts";
import type { ReconcilerParts } from "./reconciler-parts.ts";

type RedirectStep = Extract<Step, { do: "redirect" }>;
type Parts = Pick<
  ReconcilerParts,
  "redirection" | "connections" | "bypasses" | "history" | "log" | "clock"
> & {
  readonly outcomes: Pick<Outcomes, "repaired" | "bypassed">;
};

/** Connections that ended while tracking began are over by then, and few others can have met what is left of them. */
const OVER_AFTER_MS = 2_000;
/** What an agent before this one left is forgotten as well, not of all pods at once: each time walks through what all namespaces track. */
const ADOPTED_WITHIN_MS = 30_000;
/** Handles of which that was planned, or need not be. */
const planned = new WeakSet<Netns>();

/** Makes rules, ip rule and route right. @throws when they cannot be made or seen */
export async function redirectPod(step: RedirectStep, record: PodRecord, parts: Parts): Promise<void> {
  const { redirection, history, log, outcomes } = parts;
  const { sandbox, redirect, isNew, isEntry, isRepair } = step;
  const isReset = isEntry && redirect.establishedConnections === "reset";
  const { netns } = sandbox;
  const names = { ns: record.facts?.namespace, pod: record.facts?.name, uid: record.uid, netns: netns.key };
  // counted before a rule stands: after that ztunnel's own connections are among them
  if (isEntry) await countEarlier(step, record, parts);
  if (isReset) await resetEarlier(step, record, parts);
  if (isEntry) await forgetFrozen(step, record, parts);
  const isUntouched = step.isUntouched && !isReset;
  // a runtime that ends the sandbox takes "lo" down a moment before its DEL: of a pod that lives the second look mends it
  const raisesLoopback =
    isRepair &&
    record.isLoopbackDown &&
    record.facts !== undefined &&
    record.facts.deletionTimestamp !== true;
  const call = { isNew, isUntouched, raisesLoopback };
  const report = await redirection.apply(netns, redirect, call).catch((error: unknown) => {
    record.isLoopbackDown = error instanceof NetlinkError && error.code === "ENETDOWN";
    throw error;
  });
  record.isLoopbackDown = false;
  const { skippedFamilies, leftoverFault, fallback } = report;
  // what the kernel counts it announces; iptables-legacy, and tables that end with a process, it does not
  record.areRulesAnnounced = report.generation !== undefined;
  record.hasWritten = report.changed;
  history.looked(record.uid, { netnsKey: netns.key, skippedFamilies });
  history.step(record.uid, "rules");
  forgetLater(step, record, parts);
  if (fallback !== undefined && report.writes > 0)
    log.warn({ ...names, reason: fallback }, "a program wrote a pod's rules, which takes many times longer");
  if (leftoverFault !== undefined)
    log.warn(
      { ...names, reason: leftoverFault },
      "an earlier agent's rules are still in the pod beside ours",
    );
  const isStillThere = record.sandbox?.netns === netns && record.workload.phase.at === "captured";
  if (isRepair && report.changed && isStillThere) outcomes.repaired(record, report.repaired);
  await lookForBypasses(record, { netns, redirect, generation: report.generation }, parts);
}

async function countEarlier({ sandbox }: RedirectStep, record: PodRecord, parts: Parts): Promise<void> {
  const { connections, history, log } = parts;
  try {
    const { count } = await connections.countEarlier(sandbox.netns);
    history.entered(record.uid, { earlierConnections: count });
  } catch (error) {
    log.debug({ uid: record.uid, err: error }, "cannot count the connections from before the capture");
  }
}

function forgetLater(step: RedirectStep, record: PodRecord, parts: Parts): void {
  const { sandbox, isNew, isEntry } = step;
  const isPlanned = planned.has(sandbox.netns);
  planned.add(sandbox.netns);
  // in one that is being made nothing was tracked before our rules
  if (isNew || (isPlanned && !isEntry)) return;
  const pauseMs = OVER_AFTER_MS + (isEntry ? 0 : Math.random() * ADOPTED_WITHIN_MS);
  parts.clock.after(pauseMs, () => void forgetFrozen(step, record, parts));
}

/** Where the kernel does not let us, a new connection may meet an old one's ports. */
async function forgetFrozen({ sandbox }: RedirectStep, record: PodRecord, parts: Parts): Promise<void> {
  const { connections, log } = parts;
  const { netns } = sandbox;
  if (netns.closed) return;
  try {
    await connections.forgetFrozen(netns);
  } catch (error) {
    log.debug(
      { uid: record.uid, netns: netns.key, err: error },
      "cannot make the kernel forget old connections",
    );
  }
}

/** While rules that let them be stand, so that the resets leave as they are; the rules that were asked for follow. */
async function resetEarlier(step: RedirectStep, record: PodRecord, parts: Parts): Promise<void> {
  const { connections, redirection, log } = parts;
  const { netns } = step.sandbox;
  const { redirect, isNew, isUntouched } = step;
  await redirection.apply(netns, { ...redirect, establishedConnections: "keep" }, { isNew, isUntouched });
  const reset = await connections.resetEarlier(netns);
  log.info({ uid: record.uid, netns: netns.key, ...reset }, "reset the connections from before the capture");
}
