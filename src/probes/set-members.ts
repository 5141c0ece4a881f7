// SPDX-License-Identifier: Apache-2.0
// What is in a set of addresses against what should be; the same for sets of ipset and of nf_tables. Pure.
import type { Family } from "../netfilter/family.ts";

/** What is in a set: comments by address, empty where an entry has none. */
export type SetEntries = ReadonlyMap<string, string>;

/** Who owns which address. */
export interface HostMembers {
  /** UID of the owner of each address, in the spelling of {@link addressText}. */
  readonly owners: Readonly<Record<Family, SetEntries>>;
  /**
   * Whether an entry that is nobody's address is known to be out of date, by its comment. An entry of a pod that was never
   * heard of is not: the picture may be incomplete.
   */
  readonly isStale: (comment: string) => boolean;
}

/** An entry that is not there, names another, or should not be there. */
export interface MemberFinding {
  readonly kind: "missing-member" | "wrong-owner" | "stale-member";
  readonly family: Family;
  readonly address: string;
  /** The pod whose the entry should be, or says to be (`stale-member`). */
  readonly uid: string;
  readonly detail: string;
}

/** How a set differs. @param wanted of its family */
export function memberFindings(
  family: Family,
  entries: SetEntries,
  { owners, isStale }: { readonly owners: SetEntries } & Pick<HostMembers, "isStale">,
): MemberFinding[] {
  const findings: MemberFinding[] = [];
  for (const [address, uid] of owners) {
    const comment = entries.get(address);
    if (comment === uid) continue;
    const kind = comment === undefined ? "missing-member" : "wrong-owner";
    const detail = `${address} of pod ${uid} ${comment === undefined ? "is missing" : `names "${comment}"`}`;
    findings.push({ kind, family, address, uid, detail });
  }
  for (const [address, uid] of entries)
    if (!owners.has(address) && isStale(uid))
      findings.push({
        kind: "stale-member",
        family,
        address,
        uid,
        detail: `${address} still names pod ${uid}`,
      });
  return findings;
}
