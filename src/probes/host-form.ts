// SPDX-License-Identifier: Apache-2.0
// The ways of keeping the host's share: by iptables and ipset, or in native nftables.
import type { Netns } from "../linux/netns.ts";
import type { NetnsAt } from "../linux/netns-visit.ts";
import type { Family } from "../netfilter/family.ts";
import type { ProbeMatch } from "./kubelet-match.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import type { HostMembers, SetEntries } from "./set-members.ts";

/** What should be there. */
export interface WantedHost {
  readonly families: readonly Family[];
  readonly members: HostMembers;
  readonly match: ProbeMatch;
  /** False: only the sets need be looked at. */
  readonly rules: boolean;
  /** Through which the sets are looked at; default: the namespace's descriptor. */
  readonly at?: NetnsAt;
}

/** How the host differs, and what changes it. */
export interface SeenHost {
  readonly drift: readonly ProbeDrift[];
  /** Entries in the sets. */
  readonly entryCount: number;
  /** Writes what differed. @throws as {@link HostForm.observe} */
  readonly write: () => Promise<void>;
}

/** One way, on one host. Not to be used by two callers at a time. */
export interface HostForm {
  readonly counts: { readonly setWrites: number; readonly ruleWrites: number };
  /** Compares what is there with what should be; writes nothing. @throws {ProbesError}; what engines and netlink throw */
  observe(netns: Netns, wanted: WantedHost): Promise<SeenHost>;
  /** What of it no kernel announces. Of entries of ipset it can be asked again and again; where rules are not, no look may be spared. */
  readonly unannounced: "nothing" | "entries" | "rules";
  /** Comments by address, of the sets that are there. @throws as {@link observe} */
  entries(netns: Netns, families: readonly Family[]): Promise<ReadonlyMap<Family, SetEntries>>;
  /** Takes away all of it; absence is success. @returns what was there @throws as {@link observe} */
  remove(netns: Netns): Promise<ProbeDrift[]>;
}
