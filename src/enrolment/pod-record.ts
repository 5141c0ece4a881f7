// SPDX-License-Identifier: Apache-2.0
// What the agent knows of one pod between two looks at it.
import { uptime } from "node:os";
import type { NamespaceFacts, PodFacts } from "../kube/pod-facts.ts";
import { compareVersions } from "../kube/resource-version.ts";
import type { Sandbox } from "./sandbox-finder.ts";

/**
 * Where a pod stands.
 * - `outside`: not in the mesh and untouched.
 * - `waiting`: wanted, but its sandbox or ztunnel is not there yet; untouched so far.
 * - `pending`: redirected, ztunnel has not acknowledged it; its traffic is held back.
 * - `enrolled`: everything verified.
 * - `failed`: the last attempt ended in an error; tried again by itself.
 */
export type EnrolmentState = "outside" | "waiting" | "pending" | "enrolled" | "failed";

/** A namespace that is no longer a pod's. */
export interface EndedNetns {
  /** `Netns.key`; the number in it may come back. */
  readonly key: string;
  /** When it ended, in ms since boot. */
  readonly uptimeMs: number;
}

/** One pod of the node. Only runs of its own key in the queue change the observed part. */
export interface PodRecord {
  readonly uid: string;
  /** Newest facts seen; `undefined` once the pod is deleted. */
  facts: PodFacts | undefined;
  /** Facts of the namespace fetched for an ADD that came before the watch had them. */
  namespaceHint: NamespaceFacts | undefined;
  /** Owned. */
  sandbox: Sandbox | undefined;
  /** The sandbox that ended last: its remains in /proc are not the pod. */
  ended: EndedNetns | undefined;
  /** Owned: sandboxes that ended or were replaced; the next run clears them up and closes them. */
  readonly departed: Sandbox[];
  /** Calls of ADD that wait for this pod. */
  adding: number;
  /** True from the first write into the sandbox on, until everything is taken away again. */
  touched: boolean;
  /**
   * The pod is older than this agent, and nobody has looked yet whether an earlier one left something in it: the
   * annotation may be missing on a pod that was captured, and a pod that should not be in the mesh would be cut off.
   */
  unseen: boolean;
  state: EnrolmentState;
  /** Warnings about the pod's annotations that have been logged already. */
  warned: string;
  /** Runs in a row that did not get where they wanted. */
  failures: number;
}

/** A pod that nothing has been done for yet. */
export function createPodRecord(uid: string): PodRecord {
  return {
    uid,
    facts: undefined,
    namespaceHint: undefined,
    sandbox: undefined,
    ended: undefined,
    departed: [],
    adding: 0,
    touched: false,
    unseen: false,
    state: "outside",
    warned: "",
    failures: 0,
  };
}

/**
 * Gives a pod its sandbox and takes ownership of the handle. An earlier sandbox departs; a second handle of the
 * namespace that the pod has already is closed.
 */
export function adoptSandbox(record: PodRecord, sandbox: Sandbox): void {
  const known = record.sandbox;
  if (known !== undefined && known.netns.key === sandbox.netns.key) {
    if (known.netns === sandbox.netns) return;
    sandbox.netns.close();
    record.sandbox = { ...known, containerId: sandbox.containerId || known.containerId };
    return;
  }
  if (known !== undefined) {
    noteEnd(record, known);
    record.touched = false;
    record.state = "outside";
  }
  record.sandbox = sandbox;
}

/** The sandbox ended: the pod's next run clears it up. */
export function noteEnd(record: PodRecord, sandbox: Sandbox): void {
  record.ended = { key: sandbox.netns.key, uptimeMs: uptime() * 1000 };
  record.departed.push(sandbox);
}

/**
 * Whether a sandbox found in /proc is what is left of the one that ended. The kernel gives the number of a namespace that
 * is gone to the next one that is made, so the same number alone says nothing: processes that started later do.
 */
export function isRemains({ ended }: PodRecord, found: Sandbox): boolean {
  return ended !== undefined && found.netns.key === ended.key && (found.startedMs ?? 0) < ended.uptimeMs;
}

/** Gives a pod a sandbox found in /proc, unless an ADD has brought one meanwhile or it is the one that has just ended. */
export function offerSandbox(record: PodRecord, found: Sandbox | undefined): void {
  if (found === undefined) return;
  const isWelcome = record.sandbox === undefined && !isRemains(record, found);
  if (isWelcome) adoptSandbox(record, found);
  else found.netns.close();
}

/** Nobody waits for it and it owns nothing: a DEL may have come while its run was under way. */
export function isEmpty({ adding, facts, sandbox, departed }: PodRecord): boolean {
  return adding === 0 && facts === undefined && sandbox === undefined && departed.length === 0;
}

/** Takes over facts unless newer ones are known. */
export function newestFacts<T extends { readonly resourceVersion: string }>(
  known: T | undefined,
  offered: T,
): T {
  if (known === undefined) return offered;
  return (compareVersions(offered.resourceVersion, known.resourceVersion) ?? 1) < 0 ? known : offered;
}
