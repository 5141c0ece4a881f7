// SPDX-License-Identifier: Apache-2.0
// What the live feed sends to a page, as types.

import type { NodeReport } from "../status/node-state-report.ts";
import type { PodReport } from "../status/state-report.ts";

/** Everything; the first event of each connection, and again for a page that could not keep up. */
export interface WholeEvent {
  readonly node: NodeReport;
  readonly pods: readonly PodReport[];
}

/** What is different from the event before. */
export interface ChangeEvent {
  readonly node?: NodeReport;
  /** Pods that are new or changed, whole. */
  readonly pods: readonly PodReport[];
  /** UIDs of pods that are not there any more. */
  readonly gone: readonly string[];
}
