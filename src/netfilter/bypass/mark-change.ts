// SPDX-License-Identifier: Apache-2.0
// What a rule does to a packet's or a connection's mark, and whether the result can be one that our rules let pass. Pure.

/** Marks that our rules take for a word of ztunnel's, and leave the packet alone. */
export interface PassingMarks {
  /** Bits that are compared. */
  readonly mask: number;
  /** Values, in packets that arrive. */
  readonly prerouting: readonly number[];
  /** Values, in packets that the pod sends. */
  readonly output: readonly number[];
}

/**
 * - `mark`: the mark itself, changed: `(mark & keep) ^ xor`
 * - `other`: the packet's mark out of the connection's, or the other way round: `(mark & ~written) ^ (other & read) ^ xor`
 * - `unknown`: it comes from elsewhere
 */
export type MarkChange =
  | { readonly from: "mark"; readonly keep: number; readonly xor: number }
  | { readonly from: "other"; readonly read: number; readonly written: number; readonly xor: number }
  | { readonly from: "unknown" };

export const UNKNOWN_CHANGE: MarkChange = { from: "unknown" };

/**
 * Whether the new mark can be one of these values. What went in may be anything, but a mark that is kept or taken over as it is
 * makes nothing new: whoever made it is judged by itself.
 */
export function canBecome(change: MarkChange, values: readonly number[], mask: number): boolean {
  if (change.from === "unknown") return true;
  const xor = change.xor & mask;
  const keep = (change.from === "mark" ? change.keep : ~(change.written | change.read)) & mask;
  if (keep === mask && xor === 0) return false;
  if (change.from === "other") {
    const read = change.read & mask;
    if (read === mask && (change.written & mask) === mask && xor === 0) return false;
    // bits of two marks are mixed
    if (read !== 0) return true;
  }
  return values.some((value) => ((value ^ xor) & ~keep & mask) === 0);
}
