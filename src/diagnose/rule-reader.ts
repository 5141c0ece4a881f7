// SPDX-License-Identifier: Apache-2.0
// Reads a pod's rules for people: in this process, through the engine that the agent uses, in the namespace that the pod runs in.
import type { PodProcess } from "../linux/proc-scan.ts";
import type { RuleState } from "../netfilter/rule-engine.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { PodReport } from "../status/state-report.ts";
import type { KernelEyes } from "./kernel-eyes.ts";
import { openAs } from "./pod-check.ts";

/** The pod has no namespace that could be looked at. */
export class NoPodProcessError extends Error {
  override readonly name = "NoPodProcessError";
}

/**
 * Our rules as they stand in a pod, and how they differ from what the agent says should be; writes nothing.
 * @param running what scanProc found of the pod
 * @throws {NoPodProcessError} and what `PodRedirection.rules` throws
 */
export async function readRules(
  { redirection }: KernelEyes,
  pod: Pick<PodReport, "desired">,
  running: PodProcess | undefined,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<RuleState> {
  if (running === undefined) throw new NoPodProcessError("no process of the pod was found");
  using netns = openAs(running);
  if (netns === undefined) throw new NoPodProcessError("its process has ended");
  return await redirection.rules(netns, wantedRedirect(pod), signal === undefined ? {} : { signal });
}

/** How the agent says that a pod should be redirected; undefined: not at all, or nobody knows. */
export function wantedRedirect({ desired }: Pick<PodReport, "desired">): RedirectOptions | undefined {
  return desired.wanted === true ? (desired.redirect ?? undefined) : undefined;
}
