// SPDX-License-Identifier: Apache-2.0
// Which pod owns which address: what the sets should hold. Pure.
import { isDeepStrictEqual } from "node:util";
import { canonicalAddress, checkedUid, familyOf } from "./probe-address.ts";
import type { HostMembers } from "./set-members.ts";

/** What the sets should hold, as it was asked for up to a moment. */
export interface WantedMembers extends HostMembers {
  /** Pods whose entries are to go. */
  readonly removed: ReadonlySet<string>;
}

/**
 * The wanted members. An address may be claimed by several pods (a sandbox that is not torn down yet, a status that is
 * behind); the newest claim owns it, and an older one gets it back when the newest goes.
 */
export class ProbeMembers {
  readonly #addresses = new Map<string, readonly string[]>();
  /** Claiming UIDs of each address, the newest last. */
  readonly #claims = new Map<string, string[]>();
  /** Pods whose entries are to go, also entries of an earlier agent that this one never set. */
  readonly #removed = new Set<string>();

  /**
   * The pod has these addresses now, or none any more. Only an address that is new for the pod takes ownership: saying the same again later
   * does not take it back from a newer pod.
   * @returns whether that changed anything
   * @throws RangeError for what is no address or no UID; nothing is changed then
   */
  set(uid: string, addresses: readonly string[]): boolean {
    const wanted = distinct(addresses);
    const before = this.#addresses.get(checkedUid(uid)) ?? [];
    const wasRemoved = this.#removed.has(uid);
    const isGone = wanted.length === 0;
    if (isDeepStrictEqual(before, wanted) && wasRemoved === isGone) return false;
    if (isGone) this.#removed.add(uid);
    else this.#removed.delete(uid);
    this.#replace(uid, wanted, { onTop: true });
    return true;
  }

  /**
   * Many pods at once, as an enumeration found them: of two in the list with one address the later owns it. What
   * {@link set} said is newer than the list and stands.
   * @throws RangeError as {@link set}; nothing is changed then
   */
  restore(members: ReadonlyMap<string, readonly string[]>): void {
    const wanted = [...members].map(([uid, addresses]) => [checkedUid(uid), distinct(addresses)] as const);
    // each goes below what is there: the last of the list first, so that it ends up above the others
    for (const [uid, addresses] of wanted.toReversed())
      if (!this.#removed.has(uid) && !this.#addresses.has(uid)) this.#replace(uid, addresses);
  }

  /** Addresses that are the pod's and no newer one's. */
  ownedBy(uid: string): readonly string[] {
    return (this.#addresses.get(uid) ?? []).filter((address) => this.#claims.get(address)?.at(-1) === uid);
  }

  /**
   * What the sets should hold now; it does not change when the members do.
   * @param isOutside whether a pod that was never set is known not to be in the mesh; asked with any entry's comment
   */
  wanted(isOutside: (uid: string) => boolean = () => false): WantedMembers {
    const owners = { 4: new Map<string, string>(), 6: new Map<string, string>() };
    for (const [address, uids] of this.#claims) {
      const owner = uids.at(-1);
      if (owner !== undefined) owners[familyOf(address)].set(address, owner);
    }
    const removed = new Set(this.#removed);
    const known = new Set(this.#addresses.keys());
    const isStale = (comment: string) => removed.has(comment) || known.has(comment) || isOutside(comment);
    return { owners, isStale, removed };
  }

  /** The kernel's sets were seen to agree with what was wanted. */
  settle({ removed }: WantedMembers): void {
    for (const uid of removed) this.#removed.delete(uid);
  }

  #replace(uid: string, wanted: readonly string[], { onTop = false } = {}): void {
    const before = this.#addresses.get(uid) ?? [];
    for (const address of before) {
      if (!wanted.includes(address)) this.#unclaim(address, uid);
    }
    for (const address of wanted) {
      const claims = this.#claims.get(address) ?? [];
      if (claims.includes(uid)) continue;
      if (onTop) claims.push(uid);
      else claims.unshift(uid);
      this.#claims.set(address, claims);
    }
    if (wanted.length === 0) this.#addresses.delete(uid);
    else this.#addresses.set(uid, wanted);
  }

  #unclaim(address: string, uid: string): void {
    const left = (this.#claims.get(address) ?? []).filter((other) => other !== uid);
    if (left.length === 0) this.#claims.delete(address);
    else this.#claims.set(address, left);
  }
}

/** In one spelling and order, each once. */
function distinct(addresses: readonly string[]): string[] {
  return [...new Set(addresses.map(canonicalAddress))].sort();
}
