// SPDX-License-Identifier: Apache-2.0
// The changes of nf_tables that make tables which are wholly ours.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { newChain, newRule, newTable } from "../nft/nft-wire.ts";
import { encodeBase } from "./native-layout.ts";
import type { NativeTable } from "./native-rules.ts";

/** Encoding takes longer than the kernel needs. */
const creationOf = new WeakMap<NativeTable, readonly NetlinkRequest[]>();

/** The changes that make a table which must not be there. */
export function createTable(wanted: NativeTable): readonly NetlinkRequest[] {
  const known = creationOf.get(wanted);
  if (known !== undefined) return known;
  const place = { family: "inet", table: wanted.table } as const;
  const changes = [
    newTable(place),
    ...wanted.chains.map(({ chain, hook }) =>
      newChain({ ...place, chain }, hook === undefined ? undefined : encodeBase(hook)),
    ),
    ...wanted.chains.flatMap(({ chain, rules }) => rules.map((rule) => newRule({ ...place, chain }, rule))),
  ];
  creationOf.set(wanted, changes);
  return changes;
}
