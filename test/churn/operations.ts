// SPDX-License-Identifier: Apache-2.0
// What can happen to a node during a churn, as plain values: a run can be printed, repeated and cut short.
import type { Family } from "../support/node/kernel.ts";

/** Value of the dataplane-mode label; null is no label. */
export type Mode = "ambient" | "none" | null;

/** Annotations of a pod that change its rules; null where it has none. */
export interface Overrides {
  readonly dnsCapture: "true" | "false" | null;
  readonly ingress: "true" | null;
  readonly interfaces: string | null;
}

/** Something that happens to one pod slot. `pod` is its number. */
export type PodOperation =
  /** `seen` false: the chain lacks our plugin at that moment. `foreign`: somebody else has rules in the pod. */
  | {
      readonly kind: "create";
      readonly pod: number;
      readonly uid: string;
      readonly mode: Mode;
      readonly overrides: Overrides;
      readonly seen: boolean;
      readonly foreign: boolean;
    }
  /** Sandbox first, then the object, as kubelet does it. */
  | { readonly kind: "delete"; readonly pod: number; readonly seen: boolean }
  /** The object at once; the sandbox follows, with `lingers` only after the next look at the node. */
  | { readonly kind: "force-delete"; readonly pod: number; readonly lingers: boolean }
  /** The pod has succeeded; without `sandboxStays` its sandbox and its addresses are gone. */
  | { readonly kind: "finish"; readonly pod: number; readonly sandboxStays: boolean }
  | {
      readonly kind: "rebuild";
      readonly pod: number;
      readonly delSeen: boolean;
      readonly addSeen: boolean;
      readonly newFirst: boolean;
    }
  | { readonly kind: "label"; readonly pod: number; readonly mode: Mode }
  | { readonly kind: "annotate"; readonly pod: number; readonly overrides: Overrides }
  | { readonly kind: "sidecar"; readonly pod: number; readonly on: boolean }
  | {
      readonly kind: "alter";
      readonly pod: number;
      readonly how: AlterationName;
      readonly family: Family;
    };

/** Something that happens to a namespace of the API; `replace` deletes it with all its pods first. */
export interface NamespaceOperation {
  readonly kind: "label-namespace" | "replace-namespace";
  readonly namespace: string;
  readonly mode: Mode;
}

/** Something that happens to one of the processes around the pods; it goes on behind the operations that follow. */
export type PeerOperation =
  | { readonly kind: "agent"; readonly signal: "SIGTERM" | "SIGKILL"; readonly awayMs: number }
  | { readonly kind: "ztunnel"; readonly how: ZtunnelChange; readonly ms: number }
  | { readonly kind: "api"; readonly how: ApiFault; readonly ms: number };

export type Operation = PodOperation | NamespaceOperation | PeerOperation;

/** `overlap-old-stays` is a roll-out that was taken back. */
export type ZtunnelChange = "kill" | "terminate" | "overlap-new-stays" | "overlap-old-stays" | "reconnect";

export const apiFaults = [
  "refuse",
  "hang",
  "drop-watches",
  "end-watches",
  "gone-event",
  "gone-status",
  "compact",
  "duplicate",
  "swap",
  "garble",
  "cut-list",
  "slow-list",
  "patch-500",
  "patch-409",
  "get-503",
] as const;
export type ApiFault = (typeof apiFaults)[number];

/** What an alteration runs in the pod, and which foreign rules it takes away besides ours. */
export interface Alteration {
  readonly commands: (family: Family) => readonly (readonly string[])[];
  readonly clears?: "nat" | "all";
}

const tool = (family: Family): string => (family === 4 ? "iptables-nft" : "ip6tables-nft");
const rule =
  (...args: readonly string[]) =>
  (family: Family): readonly (readonly string[])[] => [[tool(family), ...args]];
const ip =
  (...args: readonly string[]) =>
  (family: Family): readonly (readonly string[])[] => [["ip", `-${family}`, ...args]];

/** Ways to hurt a captured pod. In a pod that is not captured each of them fails or changes nothing. */
export const alterations = {
  "flush-nat": { commands: rule("-t", "nat", "-F"), clears: "nat" },
  "flush-mangle": { commands: rule("-t", "mangle", "-F") },
  "flush-raw": { commands: rule("-t", "raw", "-F") },
  "flush-chain": { commands: rule("-t", "nat", "-F", "ISTIO_OUTPUT") },
  "delete-jump": { commands: rule("-t", "mangle", "-D", "PREROUTING", "-j", "ISTIO_PRERT") },
  "delete-nat-jump": { commands: rule("-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT") },
  "second-jump": { commands: rule("-t", "nat", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT") },
  "delete-rule": { commands: rule("-t", "nat", "-D", "ISTIO_OUTPUT", "2") },
  "bypass-rule": { commands: rule("-t", "nat", "-I", "ISTIO_OUTPUT", "-j", "ACCEPT") },
  "late-rule": { commands: rule("-t", "mangle", "-A", "ISTIO_PRERT", "-j", "RETURN") },
  reorder: {
    commands: (family) => [
      [
        tool(family),
        "-t",
        "nat",
        "-D",
        "ISTIO_OUTPUT",
        "-p",
        "tcp",
        "-m",
        "mark",
        "--mark",
        "0x111/0xfff",
      ].concat(["-j", "ACCEPT"]),
      [
        tool(family),
        "-t",
        "nat",
        "-A",
        "ISTIO_OUTPUT",
        "-p",
        "tcp",
        "-m",
        "mark",
        "--mark",
        "0x111/0xfff",
      ].concat(["-j", "ACCEPT"]),
    ],
  },
  "delete-chain": {
    commands: (family) => [
      [tool(family), "-t", "mangle", "-F", "OUTPUT"],
      [tool(family), "-t", "mangle", "-F", "ISTIO_OUTPUT"],
      [tool(family), "-t", "mangle", "-X", "ISTIO_OUTPUT"],
    ],
  },
  "flush-ruleset": { commands: () => [["nft", "flush", "ruleset"]], clears: "all" },
  "ip-rule": { commands: ip("rule", "del", "pref", "32764") },
  "ip-rules-flushed": {
    commands: (family) => [
      ["ip", `-${family}`, "rule", "flush"],
      ["ip", `-${family}`, "rule", "add", "pref", "32766", "lookup", "main"],
    ],
  },
  route: { commands: ip("route", "flush", "table", "100") },
} as const satisfies Record<string, Alteration>;
export type AlterationName = keyof typeof alterations;

/** One line for people, and for finding it again. */
export function describeOperation(operation: Operation, index: number): string {
  const { kind, ...rest } = operation;
  const details = Object.entries(rest).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return `${String(index).padStart(4)} ${kind} ${details.join(" ")}`;
}
