// SPDX-License-Identifier: Apache-2.0
// What the enrolment is made with, and what CNI calls tell it.
import type { NodeState } from "../kube/node-state.ts";
import type { NamespaceFacts, PodFacts } from "../kube/pod-facts.ts";
import type { Netns } from "../linux/netns.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import type { Attachment, Attachments, Place } from "./attachments.ts";
import type { EnrolmentPolicy } from "./desired-state.ts";
import type { OutcomesOptions } from "./outcomes.ts";
import type { PodNoticesOptions } from "./pod-notices.ts";
import type { Pace } from "./pod-view.ts";
import type { Decisions } from "./reconciler.ts";
import type { ReconcilerParts } from "./reconciler-parts.ts";

export interface EnrolmentOptions extends Omit<ReconcilerParts, "ztunnel" | "probes" | "attachments"> {
  readonly node: Pick<
    NodeState,
    "pod" | "podByName" | "namespace" | "isFresh" | "onPodChange" | "onNamespaceChange"
  > & {
    readonly pods: Pick<NodeState["pods"], "values" | "get" | "hasListedSince"> & { onlist: () => void };
    onsetback: () => void;
  };
  readonly ztunnel: ReconcilerParts["ztunnel"] & Pick<ZdsServer, "onchange" | "withdraw" | "podCount">;
  readonly probes: ReconcilerParts["probes"] & Pick<HostProbes, "start" | "restore">;
  readonly attachments: ReconcilerParts["attachments"] & Attachments;
  readonly events: OutcomesOptions["events"];
  readonly policy: EnrolmentPolicy;
  /** How often an enrolled pod is looked at without a reason; jittered by a quarter. */
  readonly reconcileIntervalMs: number;
  /** Pods looked at in parallel. */
  readonly concurrency?: number;
  /** How long ADD waits for a ztunnel connection. ztunnel's own backoff reaches 15 s. */
  readonly ztunnelWaitMs: number;
  readonly pace: Pick<Pace, "leavePauseMs" | "leaveDrainMs">;
  /** Listens to pods' namespaces. Default: nobody does, and all are looked at by the clock. */
  readonly notices?: Pick<PodNoticesOptions, "open" | "most" | "glance">;
  readonly random?: () => number;
  readonly decisions?: Decisions;
}

/** What an ADD says. */
export interface AddedSandbox {
  readonly pod: PodFacts;
  readonly namespace: NamespaceFacts;
  readonly place: Place;
  readonly attachment: Attachment;
  /** Opens the namespace, for a pod that belongs into the mesh; the handle is owned by the enrolment. */
  readonly open: () => Netns;
  /**
   * How long is waited at all, where the sandbox stays although it is not captured: its pod's runs go on with it. Default: `ztunnelWaitMs` for a
   * ztunnel, and the runtime takes the sandbox down.
   */
  readonly patience?: { readonly waitMs: number };
}

/** What a CNI call names of a pod; empty texts where it does not say. */
export interface NamedSandbox extends Attachment {
  readonly uid: string;
  /** `Netns.key` if the runtime still named the namespace. */
  readonly netnsKey: string | undefined;
}
