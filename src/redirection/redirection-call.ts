// SPDX-License-Identifier: Apache-2.0
// How the redirection of a pod is asked for, and what it has to say.
import type { RoutingState } from "../linux/netlink/rtnetlink.ts";
import type { Family } from "../netfilter/family.ts";
import type { Drift } from "./fingerprint.ts";
import type { SkippedFamily } from "./pod-routing.ts";

/** How a single call is made. */
export interface RedirectionCall {
  readonly signal?: AbortSignal;
  /**
   * The runtime made the namespace just now (CNI ADD): no earlier agent can have left anything in it, so neither the other
   * iptables variant nor istio-cni's tables are looked at. Default false: it is, once for each handle. Wrongly true, it costs a round more.
   */
  readonly isNew?: boolean;
  /**
   * Processes run in it, and a moment ago nothing of any agent was there: it is not read first, and not searched for earlier agents.
   * Default false; wrongly true, it costs a round more.
   */
  readonly isUntouched?: boolean;
  /**
   * "lo" is down for good, and the pod lives: it is brought up, for without it nothing reaches ztunnel. Default false, ENETDOWN: a
   * runtime takes it down first when it ends a sandbox.
   */
  readonly raisesLoopback?: boolean;
}

/** What a namespace has of its redirection. */
export interface Verification {
  readonly intact: boolean;
  readonly drift: readonly Drift[];
  readonly skippedFamilies: readonly SkippedFamily[];
  readonly routing: RoutingState;
  /** Hash of our chains as they are, by family; rules that count as ours in another form hash as ours. */
  readonly fingerprints: ReadonlyMap<Family, string>;
}

/** What bringing a namespace's redirection about took. */
export interface ApplyReport {
  readonly changed: boolean;
  /** Batches, or runs of iptables-restore. */
  readonly writes: number;
  /** What differed before. */
  readonly repaired: readonly Drift[];
  readonly skippedFamilies: readonly SkippedFamily[];
  /** Why something that an earlier agent left is still there beside ours; it is tried again with the next call. */
  readonly leftoverFault?: string;
  /** Equal for two looks between which nobody changed nf_tables in the namespace; absent where that is not known, or something was written. */
  readonly generation?: number;
  /** Why iptables-restore wrote the rules, which takes many times longer than the batch that could not be. */
  readonly fallback?: string;
  readonly durationMs: number;
}
