// SPDX-License-Identifier: Apache-2.0
// What a diagnosis says: one finding for each thing that was looked at, with the fix where there is something to fix.

/** `ok`: right. `warn`: works now, or could not be looked at. `fail`: pods cannot be captured, or not all of them. */
export type FindingLevel = "ok" | "warn" | "fail";

/** One thing that was looked at. */
export interface Finding {
  /** Stable name: `cni-chain`, `kernel-owner-match`, … */
  readonly id: string;
  readonly level: FindingLevel;
  /** One sentence: what was seen. */
  readonly what: string;
  /** What to do; `null` when there is nothing to do. */
  readonly fix: string | null;
}

/** A finding that asks for nothing. */
export function fine(id: string, what: string): Finding {
  return { id, level: "ok", what, fix: null };
}

/** A finding that works now, but should be known. */
export function warning(id: string, what: string, fix: string): Finding {
  return { id, level: "warn", what, fix };
}

/** A finding that keeps pods from being captured. */
export function failing(id: string, what: string, fix: string): Finding {
  return { id, level: "fail", what, fix };
}

/** What a check says: one finding, several, or none. */
export type Said = Finding | readonly Finding[] | undefined;

/** All that was said, in its order. */
export function allOf(...said: readonly Said[]): Finding[] {
  return said.flat().filter((each) => each !== undefined);
}

/** Runs a check; one that fails itself becomes a finding, so that the others still answer. */
export async function guarded(id: string, check: () => Promise<Said> | Said): Promise<readonly Finding[]> {
  try {
    return allOf(await check());
  } catch (error) {
    return [
      warning(id, `could not be looked at: ${(error as Error).message}`, "mend the cause, then look again"),
    ];
  }
}

/** The worst level of all. */
export function worstLevel(findings: readonly Finding[]): FindingLevel {
  if (findings.some(({ level }) => level === "fail")) return "fail";
  return findings.some(({ level }) => level === "warn") ? "warn" : "ok";
}
