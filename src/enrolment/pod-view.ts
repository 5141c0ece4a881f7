// SPDX-License-Identifier: Apache-2.0
// What the next step for a pod is decided from, besides what it is: the world around it, and what its run found out so far.
import type { Desired } from "./desired-state.ts";

/** What the outside world is like at the moment of a decision. */
export interface View {
  readonly nowMs: number;
  /** `undefined` while the labels of the namespace are not known. */
  readonly desired: Desired | undefined;
  /** An ADD waits for this pod's present sandbox. */
  readonly isAdding: boolean;
  readonly hasZtunnel: boolean;
  /** `Netns.key` of the namespace that ztunnel has acknowledged for the pod. */
  readonly acknowledged: string | undefined;
  /** The pod carries our annotation, or may. */
  readonly isAnnounced: boolean;
  /** A write of the annotation is under way. */
  readonly isAnnouncing: boolean;
  /** ztunnel may not connect yet: the roster is being filled, and nothing else happens. */
  readonly isTakingStock: boolean;
  /** The agent leaves the node for good. */
  readonly isLeavingNode: boolean;
  readonly pace: Pace;
}

/** How long things may take, in ms. */
export interface Pace {
  /** From the annotation's end to the first change in the pod: istiod tells the peers meanwhile. */
  readonly leavePauseMs: number;
  /** How long ztunnel may go on with connections that it carries for a pod that leaves. */
  readonly leaveDrainMs: number;
  /** For the packets with which ztunnel ends its connections to be translated. */
  readonly finMs: number;
  /** The longest that may take, where a peer does not confirm that it knows. */
  readonly maxFinMs: number;
  /** How long the annotation's end is waited for, where istiod does not know the pod as enabled. */
  readonly concealMs: number;
  /** What a CNI call alone said is not believed for longer than this against a living sandbox. */
  readonly graceMs: number;
}

/** For the packets with which ztunnel ends its connections. Source: measured beside the real ztunnel. */
export const fixedPace = { finMs: 50, maxFinMs: 1_000, concealMs: 2_000 } as const;

/** What ztunnel does for a pod's connections. */
export interface Carried {
  readonly count: number;
  readonly closingCount: number;
}

/** What one run has found out already. */
export interface Run {
  readonly hasSearched: boolean;
  /** `Netns.key` that was seen to have the pod's addresses, or that stays for want of a better one. */
  readonly proved: string | undefined;
  /** `Netns.key` whose rules, ip rule and route were verified. */
  readonly verified: string | undefined;
  readonly isHeld: boolean;
  /** `Netns.key` of the namespace that ztunnel is being told of. */
  readonly told: string | undefined;
  readonly probesPass: boolean;
  readonly isAnnounced: boolean;
  /** Everything was taken away, the annotation as far as anybody can. */
  readonly isRestored: boolean;
  readonly isForgotten: boolean;
  /** Connections that ztunnel carries, and those that it is ending, asked at this moment. */
  readonly carried: Carried | undefined;
}

export const freshRun: Run = {
  hasSearched: false,
  proved: undefined,
  verified: undefined,
  isHeld: false,
  told: undefined,
  probesPass: false,
  isAnnounced: false,
  isRestored: false,
  isForgotten: false,
  carried: undefined,
};
