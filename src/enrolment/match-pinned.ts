// SPDX-License-Identifier: Apache-2.0
// Which of the namespaces that a runtime keeps is which pod's, by nothing but their addresses. Pure.
import { canonicalAddress } from "../linux/address.ts";
import type { PinnedNetns } from "../linux/pinned-netns.ts";

/** What a pass over the pinned namespaces comes to for a pod that has an address in some of them. */
export type PinnedMatch =
  | { readonly chosen: PinnedNetns }
  | { readonly chosen: undefined; readonly refused: readonly PinnedNetns[] };

/**
 * Gives each pod the one namespace that has an address of its, or of several the one that has all of them; none where that
 * leaves a doubt, and none that two of the pods would get. Pure.
 * @returns in the order of `pods`, `undefined` where no namespace has an address of the pod
 */
export function matchPinned(
  pods: readonly { readonly ips: readonly string[]; readonly mayBe: (netnsKey: string) => boolean }[],
  pinned: readonly PinnedNetns[],
): (PinnedMatch | undefined)[] {
  const matches = pods.map(({ ips, mayBe }): PinnedMatch | undefined => {
    const wanted = ips.map(canonicalAddress);
    const some = pinned.filter(({ key, addresses }) => wanted.some((ip) => addresses.has(ip)) && mayBe(key));
    const best =
      some.length > 1 ? some.filter(({ addresses }) => wanted.every((ip) => addresses.has(ip))) : some;
    if (some.length === 0) return undefined;
    const [chosen] = best;
    return chosen !== undefined && best.length === 1 ? { chosen } : { chosen: undefined, refused: some };
  });
  const takers = new Map<PinnedNetns, number>();
  for (const match of matches)
    if (match?.chosen !== undefined) takers.set(match.chosen, (takers.get(match.chosen) ?? 0) + 1);
  return matches.map((match) =>
    match?.chosen !== undefined && takers.get(match.chosen) !== 1
      ? { chosen: undefined, refused: [match.chosen] }
      : match,
  );
}
