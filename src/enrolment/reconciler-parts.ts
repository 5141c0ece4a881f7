// SPDX-License-Identifier: Apache-2.0
// What the reconciler and its steps work with: the types alone, so that a step needs nothing of the reconciler.
import type { AnnotationWriter } from "../kube/annotation-writer.ts";
import type { Netns } from "../linux/netns.ts";
import type { PortHolder } from "../linux/port-holders.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ProbePathWatch } from "../probes/probe-path-watch.ts";
import type { forgetCarried } from "../redirection/carried-tracking.ts";
import type { forgetFrozen } from "../redirection/frozen-tracking.ts";
import type { FindBypasses } from "../redirection/pod-bypass.ts";
import type { countEarlier, countThroughZtunnel, resetEarlier } from "../redirection/pod-connections.ts";
import type { PodRedirection } from "../redirection/pod-redirection.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import type { Attachments } from "./attachments.ts";
import type { Desired } from "./desired-state.ts";
import type { Outcomes } from "./outcomes.ts";
import type { PodHistory } from "./pod-history.ts";
import type { PodRecord } from "./pod-record.ts";
import type { Pace } from "./pod-view.ts";
import type { SandboxFinder } from "./sandbox-finder.ts";

/** What the steps are done with. */
export interface ReconcilerParts {
  readonly finder: Pick<SandboxFinder, "find" | "held" | "stands">;
  readonly redirection: Pick<PodRedirection, "apply" | "open" | "remove" | "searchAgain" | "untilUp">;
  /** Whether an ambient agent wrote in a namespace. @throws when the kernel cannot be asked */
  readonly isTouched: (netns: Netns) => Promise<boolean>;
  readonly connections: {
    readonly countEarlier: typeof countEarlier;
    readonly resetEarlier: typeof resetEarlier;
    readonly countThroughZtunnel: typeof countThroughZtunnel;
    readonly forgetCarried: typeof forgetCarried;
    readonly forgetFrozen: typeof forgetFrozen;
  };
  readonly ztunnel: Pick<ZdsServer, "add" | "remove" | "hold" | "acknowledged" | "connectionCount">;
  readonly annotations: Pick<
    AnnotationWriter,
    "set" | "forget" | "forgetVersions" | "isWriting" | "isAnnotated"
  >;
  readonly probes: Pick<HostProbes, "set" | "remove">;
  readonly probePath: Pick<ProbePathWatch, "enrolled" | "left">;
  readonly attachments: Pick<Attachments, "placeOf" | "forgetPod">;
  /** Looks for what stands before a pod's rules. Default: nobody does. */
  readonly bypasses?: FindBypasses | undefined;
  readonly history: PodHistory;
  readonly log: Logger;
  readonly clock: Clock;
  /** Milliseconds between the kernel's boot and the clock's zero. */
  readonly bootMs: number;
  /** Who holds ztunnel's ports in a pod's namespace. */
  readonly portHolders: (netns: Netns) => Promise<readonly PortHolder[]>;
}

/** What the reconciler asks of those who know all pods. */
export interface ReconcilerContext {
  readonly outcomes: Outcomes;
  readonly pace: Pace;
  desired(record: PodRecord): Desired | undefined;
  /** Whether another pod's sandbox is in the namespace. */
  isOwned(netnsKey: string, uid: string): boolean;
  isTakingStock(): boolean;
  isLeavingNode(): boolean;
  /** The pod is captured in its present sandbox. */
  oncaptured(record: PodRecord): void;
}
