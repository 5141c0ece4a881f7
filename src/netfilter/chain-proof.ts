// SPDX-License-Identifier: Apache-2.0
// Whether chains that have our names are ours, by what stands in them. Pure.
import type { ChainProof, OwnTable } from "./told-rules.ts";

/** Rules of a chain, as bytes of the kernel. */
export interface ProvenChain {
  readonly rules: readonly Uint8Array[];
  /** False: there are more than these. */
  readonly isComplete: boolean;
}

/**
 * Whether the chains of a table that have our names are ours: they are written together, so one that shows it speaks for all. Chains
 * without a rule hold nothing of others, and what cannot be seen as a whole may hold ours.
 */
export function isProven({ proof }: Pick<OwnTable, "proof">, chains: readonly ProvenChain[]): boolean {
  if (proof === undefined || chains.every(({ rules, isComplete }) => rules.length === 0 && isComplete))
    return true;
  return chains.some(({ rules, isComplete }) => !isComplete || rules.some((rule) => shows(rule, proof)));
}

function shows(rule: Uint8Array, proof: ChainProof): boolean {
  const bytes = Buffer.from(rule.buffer, rule.byteOffset, rule.length);
  return proof.every((values) => values.some((value) => bytes.indexOf(value) >= 0));
}
