// SPDX-License-Identifier: Apache-2.0
// The state API's questions, as whoever looks at the agent from outside asks them.

import type { NodeReport } from "./node-state-report.ts";
import type { PodDetailReport, PodListReport } from "./state-report.ts";

/** Asks the agent of this node. */
export interface StateReader {
  /** From the agent's memory. @throws Error naming why nobody answers */
  pods(): Promise<PodListReport>;
  /** Looked at in the kernel. @returns undefined: no such pod on this node @throws as {@link pods} */
  pod(ns: string, name: string): Promise<PodDetailReport | undefined>;
  /** From the agent's memory. @throws as {@link pods} */
  node(): Promise<NodeReport>;
}
