// SPDX-License-Identifier: Apache-2.0
// What the dashboard is told of a pod's rules, as types: `GET /api/v1/pods/{ns}/{name}/rules` of the dashboard's port.

/** The ways of a packet, each with where on it a packet meets rules, in this order; `other`: rules in our chains that are not ours. */
export const PATH_STAGES = {
  in: ["capture", "mark", "reply", "let-go"],
  out: ["virtual-interface", "self", "capture"],
  dns: ["capture", "apart", "apart-back"],
  probe: ["arrive", "answer"],
  other: ["unknown"],
} as const;

export type PacketPath = keyof typeof PATH_STAGES;
export type PathStage = (typeof PATH_STAGES)[PacketPath][number];

/** A pod's rules, read from the kernel for this answer. */
export interface PodRulesReport {
  /** ISO time of the look. */
  readonly at: string;
  readonly node: string;
  readonly ns: string;
  readonly name: string;
  readonly uid: string;
  /** `dev:ino` of the pod's network namespace; `null`: no sandbox is known. */
  readonly netns: string | null;
  /** `null` while the labels of the pod's namespace are not known. */
  readonly wanted: boolean | null;
  /** It is redirected to its own sidecar: rules of that are not among those that are told here. */
  readonly sidecar: boolean;
  /** The engine that was asked: an iptables variant, or `native`. */
  readonly variant: string;
  /** How long the look took. */
  readonly ms: number;
  /** Why there are no rules to show. */
  readonly unread: string | null;
  /** IPv4, then IPv6. */
  readonly families: readonly RuleFamilyReport[];
}

/** Rules of one address family. */
export interface RuleFamilyReport {
  readonly family: 4 | 6;
  /** In the order in which a packet of each path meets them. */
  readonly rules: readonly RuleReport[];
  readonly hooks: readonly HookReport[];
}

/**
 * One rule with what the kernel has counted on it. In table nat that is the first packet of each connection. A native rule that names
 * no address is one for both families, and so is its count.
 */
export interface RuleReport {
  readonly table: string;
  readonly chain: string;
  readonly path: PacketPath;
  readonly stage: PathStage;
  /** `foreign`: in our chain and not ours. */
  readonly state: "present" | "missing" | "foreign";
  /** What follows `-A CHAIN`; natively the rule that was told. Of a foreign rule a note, never its text. */
  readonly text: string;
  /** What it is for. */
  readonly comment: string | null;
  readonly packets: number;
  readonly bytes: number;
}

/** The jump from a base chain into one of ours; natively it counts nothing. */
export interface HookReport {
  readonly table: string;
  readonly chain: string;
  /** The base chain. */
  readonly from: string;
  readonly present: boolean;
  readonly packets: number;
  readonly bytes: number;
}
