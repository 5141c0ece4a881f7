// SPDX-License-Identifier: Apache-2.0
// The two address sets: what one should hold against what it holds, and the `ipset restore` text that leads there. Pure.
import type { Family } from "../netfilter/family.ts";
import { isUid } from "./probe-address.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { memberFindings, type SetEntries } from "./set-members.ts";

/** Names of the sets. Source: istio/istio cni/pkg/ipset, ProbeIPSet, and its suffixes for the families. */
export const PROBE_SETS: Readonly<Record<Family, string>> = {
  4: "istio-inpod-probes-v4",
  6: "istio-inpod-probes-v6",
};

/** What a set should hold: owner's UID of each address, and which others are to go. */
type WantedSet = Parameters<typeof memberFindings>[2];

/** A set as the kernel lists it. */
export interface SeenSet {
  readonly type: string;
  readonly hasComments: boolean;
  readonly hasTimeout: boolean;
  readonly entries: SetEntries;
}

/** An entry that is to be there, or to go. */
export interface EntryChange {
  readonly family: Family;
  readonly address: string;
  /** UID of the pod that owns the address; absent: the entry goes. */
  readonly owner?: string;
}

/** How a set differs, and what changes it: entries of a set that is right, or the lines that make it. */
export interface SetPlan {
  readonly drift: readonly ProbeDrift[];
  readonly entries: readonly EntryChange[];
  readonly lines: readonly string[];
}

const SET_TYPE = "hash:ip";
const TEMPORARY_SUFFIX = "-new";

/** Everything that may be there with a name of ours, with what an exchange leaves that was cut off. */
export const SET_NAMES: readonly string[] = Object.values(PROBE_SETS).flatMap((name) => [
  name,
  `${name}${TEMPORARY_SUFFIX}`,
]);

/**
 * Entries, or lines for `ipset restore -exist`; neither when nothing differs.
 *
 * A set without comments, or whose entries expire, is exchanged for a right one in one step, so that the rule that
 * names it goes on matching; entries that are not known to be out of date move along.
 * Source: ipset(8), create, comment, swap; a set that a rule names cannot be destroyed.
 */
export function planSet(seen: SeenSet | undefined, wanted: WantedSet, family: Family): SetPlan {
  const name = PROBE_SETS[family];
  if (seen === undefined) {
    const drift: ProbeDrift = { kind: "missing-set", family, detail: `set ${name} is not there` };
    return {
      drift: [drift],
      entries: [],
      lines: [createLine(name, family), ...addLines(name, wanted.owners)],
    };
  }
  if (!isRightSet(seen)) return planExchange(seen, wanted, family);
  const found = memberFindings(family, seen.entries, wanted);
  return {
    drift: found.map(({ address, ...drift }) => drift),
    entries: found.map(({ kind, address, uid }) =>
      kind === "stale-member" ? { family, address } : { family, address, owner: uid },
    ),
    lines: [],
  };
}

/** Whether a set with our name can be turned into a right one at all. */
export function isUsableSet(seen: SeenSet | undefined): boolean {
  return seen === undefined || seen.type === SET_TYPE;
}

function isRightSet(seen: SeenSet): boolean {
  return seen.type === SET_TYPE && seen.hasComments && !seen.hasTimeout;
}

function planExchange(seen: SeenSet, wanted: WantedSet, family: Family): SetPlan {
  const name = PROBE_SETS[family];
  const temporary = `${name}${TEMPORARY_SUFFIX}`;
  const kept = [...seen.entries].filter(
    ([address, comment]) => !wanted.owners.has(address) && !wanted.isStale(comment),
  );
  const why = seen.hasTimeout ? "its entries expire" : "its entries have no comments";
  return {
    drift: [{ kind: "wrong-set", family, detail: `set ${name} was made by something else: ${why}` }],
    entries: [],
    lines: [
      createLine(temporary, family),
      // a leftover of an exchange that was cut off
      `flush ${temporary}`,
      ...addLines(temporary, wanted.owners),
      ...kept.map(([address, comment]) =>
        isUid(comment) ? addLine(temporary, address, comment) : `add ${temporary} ${address}`,
      ),
      `swap ${temporary} ${name}`,
      `destroy ${temporary}`,
    ],
  };
}

/** The line that makes a set. */
export function createLine(name: string, family: Family): string {
  return `create ${name} ${SET_TYPE} family ${family === 4 ? "inet" : "inet6"} comment`;
}

function addLines(name: string, owners: SetEntries): string[] {
  return [...owners].map(([address, owner]) => addLine(name, address, owner));
}

function addLine(name: string, address: string, owner: string): string {
  return `add ${name} ${address} comment "${owner}"`;
}
