// SPDX-License-Identifier: Apache-2.0
// One pod as an immutable value, and which step is next for it. Pure: no I/O, no clock, nothing is closed here.

import { compareVersions } from "../kube/object-cache.ts";
import type { NamespaceFacts, PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { Sandbox } from "./sandbox-finder.ts";

/**
 * How far a pod's capture has come in its present sandbox. All but the first two mean that ztunnel may have been told.
 * - `outside`: nothing of ours is in it, and ztunnel has not been told.
 * - `told`: ztunnel was told, or is about to be; nothing leads the pod's traffic there.
 * - `held`: rules may lead its traffic to ztunnel; not both of them are proved.
 * - `captured`: rules, ip rule and route were verified in this very namespace, and ztunnel acknowledged it.
 * - `leaving`: on its way out, see {@link LeavingStage}.
 * - `ended`: its sandbox is gone, and ztunnel has not heard of it.
 */
export type Phase =
  | { readonly at: "outside" | "told" | "captured" | "ended" }
  /** Proved: the rules were seen to be whole since it came in, so they may be mended without ztunnel. */
  | { readonly at: "held"; readonly isProved: boolean }
  | {
      readonly at: "leaving";
      readonly stage: LeavingStage;
      readonly sinceMs: number;
      /** Rules stood when it began to leave: there is something to open. */
      readonly hadRules: boolean;
      /** It was captured when it began to leave, and is until it is opened. */
      readonly wasCaptured: boolean;
      /** It was announced to istiod when it began to leave. */
      readonly wasAnnounced: boolean;
    };

/**
 * - `concealing`: the annotation is being taken away.
 * - `concealed`: istiod can know; it gets a moment to tell the peers.
 * - `opened`: new connections are direct; those that ztunnel carries may end.
 * - `withdrawn`: ztunnel let go; its last packets are still translated for a moment.
 */
export type LeavingStage = "concealing" | "concealed" | "opened" | "withdrawn";

/** A namespace that is no longer a pod's, by the word of a CNI call. */
export interface EndedNetns {
  /** `Netns.key`; the number in it may come back. */
  readonly key: string;
  readonly atMs: number;
}

/** All that a pod's runs know of it. */
export interface Workload {
  readonly uid: string;
  /** Newest facts; `undefined` before the first and once the pod is deleted. */
  readonly pod: PodFacts | undefined;
  /** Facts of its namespace that an ADD brought before the watch had them. */
  readonly namespaceHint: NamespaceFacts | undefined;
  /** Owned. */
  readonly sandbox: Sandbox | undefined;
  /** Whether it is known what an earlier agent left in the sandbox. */
  readonly isInspected: boolean;
  /** The pod is older than this agent, and nobody has looked yet what an earlier one left in it. */
  readonly isUnseen: boolean;
  readonly phase: Phase;
  /** Owned: sandboxes that ended or were replaced; they are cleared and closed. */
  readonly stale: readonly Sandbox[];
  /** Owned: second handles of a namespace; they are closed without more ado. */
  readonly surplus: readonly Netns[];
  readonly ended: EndedNetns | undefined;
  /** A DEL named the sandbox, by an attachment that nobody remembers: its addresses will tell. */
  readonly doubtedMs: number | undefined;
}

/** What ADD, DEL, labels, ztunnel and timers have to say; the pod's own run reads it. */
export type Message =
  | { readonly type: "facts"; readonly pod: PodFacts | undefined }
  /** The API server's store was: whatever it has is newer than what is known. */
  | { readonly type: "set-back" }
  | {
      readonly type: "added";
      readonly pod: PodFacts;
      readonly namespace: NamespaceFacts;
      /** Handed over. */
      readonly sandbox: Sandbox;
    }
  | {
      readonly type: "ended" | "doubted";
      readonly containerId: string;
      readonly netnsKey: string | undefined;
    }
  /** The agent has just started: an earlier one may have left anything. */
  | { readonly type: "resync" };

/** A pod that nothing is known of. */
export function createWorkload(uid: string): Workload {
  return {
    uid,
    pod: undefined,
    namespaceHint: undefined,
    sandbox: undefined,
    isInspected: false,
    isUnseen: false,
    phase: { at: "outside" },
    stale: [],
    surplus: [],
    ended: undefined,
    doubtedMs: undefined,
  };
}

/** Takes over facts unless newer ones are known. */
export function newestFacts<T extends { readonly resourceVersion: string }>(
  known: T | undefined,
  offered: T,
): T {
  if (known === undefined) return offered;
  return (compareVersions(offered.resourceVersion, known.resourceVersion) ?? 1) < 0 ? known : offered;
}

/** Older than any. */
function unversioned<T extends { readonly resourceVersion: string }>(facts: T): T {
  return { ...facts, resourceVersion: "0" };
}

/** The workload after a message. */
export function absorb(workload: Workload, message: Message, nowMs: number): Workload {
  switch (message.type) {
    case "facts": {
      if (message.pod !== undefined) return { ...workload, pod: newestFacts(workload.pod, message.pod) };
      return { ...retire(workload), pod: undefined };
    }
    case "set-back": {
      const { pod, namespaceHint } = workload;
      return {
        ...workload,
        pod: pod && unversioned(pod),
        namespaceHint: namespaceHint && unversioned(namespaceHint),
      };
    }
    case "added": {
      const { pod, namespace, sandbox } = message;
      const known = {
        ...workload,
        pod: newestFacts(workload.pod, pod),
        namespaceHint: newestFacts(workload.namespaceHint, namespace),
        isUnseen: false,
        ended: undefined,
        doubtedMs: undefined,
      };
      const adopted = adopt(known, sandbox);
      return sandbox.isNew ? { ...adopted, isInspected: true } : adopted;
    }
    case "ended":
      if (!isNamed(workload, message)) return workload;
      return noteEnd(workload, nowMs);
    case "doubted":
      if (!isNamed(workload, message)) return workload;
      return { ...workload, doubtedMs: nowMs };
    case "resync":
      return { ...workload, isUnseen: true };
  }
}

/** Whether new connections are direct again at this stage. */
export function isOpen(stage: LeavingStage): boolean {
  return stage === "opened" || stage === "withdrawn";
}

/** Whether rules may lead the pod's traffic to ztunnel. */
export function rulesStand(phase: Phase): boolean {
  if (phase.at === "leaving") return phase.hadRules && !isOpen(phase.stage);
  return phase.at === "held" || phase.at === "captured";
}

/** Whether the rules were seen to be whole, so that what is missing was taken away by somebody. */
export function rulesProved(phase: Phase): boolean {
  if (phase.at === "leaving") return phase.wasCaptured && !isOpen(phase.stage);
  return phase.at === "captured" || (phase.at === "held" && phase.isProved);
}

/** Whether anything of ours may be in the pod, or ztunnel may have it. */
export function isTouched({ phase }: Pick<Workload, "phase">): boolean {
  return phase.at !== "outside";
}

/** Nothing is left to do for it, and it owns nothing. */
export function isEmpty({ pod, sandbox, stale, surplus, phase }: Workload): boolean {
  return (
    pod === undefined &&
    sandbox === undefined &&
    stale.length === 0 &&
    surplus.length === 0 &&
    phase.at === "outside"
  );
}

/** Gives the pod its sandbox; an earlier one becomes stale, a second handle of the same namespace surplus. */
export function adopt(workload: Workload, sandbox: Sandbox): Workload {
  const known = workload.sandbox;
  if (known !== undefined && known.netns.key === sandbox.netns.key) {
    const merged = {
      ...known,
      containerId: sandbox.containerId || known.containerId,
      ips: sandbox.ips.length > 0 ? sandbox.ips : known.ips,
      isNew: known.isNew && sandbox.isNew,
    };
    return { ...reject(workload, sandbox), sandbox: merged };
  }
  const before = known === undefined ? workload : retire(workload);
  // ztunnel may still have the pod with its earlier namespace
  const phase: Phase = before.phase.at === "outside" ? before.phase : { at: "told" };
  return { ...before, sandbox, phase, isInspected: false, doubtedMs: undefined };
}

/** The sandbox is no longer the pod's. */
function retire(workload: Workload): Workload {
  const { sandbox, stale, phase } = workload;
  return {
    ...workload,
    sandbox: undefined,
    isInspected: false,
    doubtedMs: undefined,
    stale: sandbox === undefined ? stale : [...stale, sandbox],
    phase: phase.at === "outside" ? phase : { at: "ended" },
  };
}

/** A CNI call says that the sandbox ended. */
export function noteEnd(workload: Workload, nowMs: number): Workload {
  const { sandbox } = workload;
  if (sandbox === undefined) return workload;
  return { ...retire(workload), ended: { key: sandbox.netns.key, atMs: nowMs } };
}

/** A late DEL of an earlier sandbox must not take the newer one away. */
function isNamed(
  { sandbox }: Workload,
  named: { readonly containerId: string; readonly netnsKey: string | undefined },
): boolean {
  if (sandbox === undefined) return false;
  const sameContainer = sandbox.containerId !== "" && sandbox.containerId === named.containerId;
  return sameContainer || (named.netnsKey !== undefined && named.netnsKey === sandbox.netns.key);
}

/** A handle that the pod does not take: it is closed by the run. */
export function reject(workload: Workload, { netns }: Sandbox): Workload {
  if (workload.sandbox?.netns === netns) return workload;
  return { ...workload, surplus: [...workload.surplus, netns] };
}
