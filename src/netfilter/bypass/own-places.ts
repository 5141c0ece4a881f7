// SPDX-License-Identifier: Apache-2.0
import type { OwnTable } from "../told-rules.ts";
import type { PassingMarks } from "./mark-change.ts";

/** Where our rules stand, and what they let pass. */
export interface OwnPlaces {
  /** Which engine holds them. */
  readonly variant: "nft" | "legacy" | "native";
  /** Our chains and the base chains that lead to them; with `native` their families alone count. */
  readonly own: readonly OwnTable[];
  /** Tables of family inet that are ours as a whole. */
  readonly inetTables: readonly string[];
  readonly marks: PassingMarks;
}
