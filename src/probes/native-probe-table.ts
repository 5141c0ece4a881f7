// SPDX-License-Identifier: Apache-2.0
// The host's table in pure nf_tables: what should be in it, and what is, read by name in one conversation.

import type { NetlinkAnswer } from "../linux/netlink/message.ts";
import type { Family } from "../netfilter/family.ts";
import { hangsAt, type NativeHook } from "../netfilter/native/native-layout.ts";
import { anySocket, counting, member, ofProtocol, owner, snatTo } from "../netfilter/native/native-parts.ts";
import { type NativeRule, nativeRule } from "../netfilter/native/native-rules.ts";
import {
  decodeElements,
  getElements,
  getSet,
  isPlainSet,
  type SetPlace,
} from "../netfilter/native/native-sets.ts";
import { sameExpressions } from "../netfilter/native/nft-expressions.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { checkFound, steady } from "../netfilter/nft/nft-answers.ts";
import {
  decodeChain,
  decodeRule,
  decodeTable,
  type NftRuleObject,
  type NftTableObject,
} from "../netfilter/nft/nft-objects.ts";
import { type Ask, getChain, getRules, getTable } from "../netfilter/nft/nft-wire.ts";
import type { SetEntries } from "./set-members.ts";

/** Source: istio/istio cni/pkg/nftables/nftables.go CreateHostRulesForHealthChecks, executeHostCommands; host_sets.go. */
export const HOST_TABLE = "istio-ambient-nat";
export const HOST_CHAIN = "postrouting";
export const HOST_HOOK: NativeHook = { type: "nat", hook: "postrouting", priority: 100 };
export const HOST_SET_COMMENT = "UUID of the pods that are part of ambient mesh";

/** What the host's rules do. */
export interface HostRules {
  readonly families: readonly Family[];
  /** Names of the sets of addresses. */
  readonly sets: Readonly<Record<Family, string>>;
  /** Source address that connections to members get. */
  readonly snat: Readonly<Record<Family, string>>;
  /**
   * Whose connections: "any" socket's of the host, or those of a user. Istio-cni takes the kubelet's user, because nft has no word for
   * "any"; "of a user whose number is not below 0" says the same, for a packet without a socket has no user.
   * A socket's cgroup cannot be asked for here. Source: linux net/netfilter/nft_socket.c, nft_socket_validate; nft_meta.c.
   */
  readonly socket: number | "any";
}

/** The table as it is. */
export interface SeenHostTable extends NftTableObject {
  readonly chain: { readonly isRight: boolean; readonly rules: readonly NftRuleObject[] } | undefined;
  /** A set that is there; undefined entries: it is not a set of plain addresses. */
  readonly sets: ReadonlyMap<Family, SetEntries | undefined>;
  /** Chains, sets and others that are not ours. */
  readonly otherCount: number;
}

const ENOUGH_BYTES = 4 * 1024 * 1024;
const MAX_READS = 5;

/** The rule of each family, in order. */
export function hostRulesOf({ families, sets, snat, socket }: HostRules): NativeRule[] {
  return families.map((family) =>
    nativeRule(
      [
        ofProtocol("tcp"),
        socket === "any" ? anySocket() : owner("user", socket, false),
        member("destination", family, sets[family]),
        counting(),
        snatTo(snat[family]),
      ],
      family,
    ),
  );
}

/** Whether the chain hangs where it should and holds exactly these. */
export function hasRules({ chain }: SeenHostTable, wanted: readonly NativeRule[]): boolean {
  return (
    chain?.isRight === true &&
    chain.rules.length === wanted.length &&
    wanted.every((rule, at) =>
      sameExpressions(rule.expressions, chain.rules[at]?.expressions ?? new Uint8Array()),
    )
  );
}

/** Where the sets of these rules are. */
export function setsOf({ families, sets }: HostRules): SetPlace[] {
  return families.map((family) => ({ table: HOST_TABLE, set: sets[family], family }));
}

/**
 * @returns undefined where there is no such table
 * @throws {NetfilterFault} UNSTEADY @throws NetlinkError, NativeError when the kernel cannot be asked
 */
export async function readHostTable(ask: Ask, rules: HostRules): Promise<SeenHostTable | undefined> {
  const place = { family: "inet", table: HOST_TABLE } as const;
  const sets = setsOf(rules);
  const requests = [
    getTable(place),
    getChain({ ...place, chain: HOST_CHAIN }),
    ...sets.map(getSet),
    getRules(place),
    ...sets.map(getElements),
  ];
  for (let attempt = 1; attempt <= MAX_READS; attempt++) {
    const answers = await steady(ask(requests, ENOUGH_BYTES));
    if (answers !== undefined) return decodeAnswers(answers, sets);
  }
  throw new NetfilterFault(
    "UNSTEADY",
    `Cannot read the host's probe rules: they changed during each of ${MAX_READS} attempts; ` +
      "look for a program on the node that writes rules without end",
  );
}

function decodeAnswers(
  answers: readonly NetlinkAnswer[],
  sets: readonly SetPlace[],
): SeenHostTable | undefined {
  const [table, chain, ...rest] = answers;
  const [head, chainHead] = [foundIn(table), foundIn(chain)];
  const heads = rest.slice(0, sets.length).map(foundIn);
  const [rules, ...elements] = rest.slice(sets.length);
  if (head === undefined) return undefined;
  const entries = new Map<Family, SetEntries | undefined>();
  for (const [at, { family }] of sets.entries()) {
    const [set, list] = [heads[at], elements[at]];
    if (set === undefined) continue;
    const isWhole = list?.error === 0 && isPlainSet(set, family);
    entries.set(
      family,
      isWhole ? new Map(list.messages.flatMap(({ body }) => decodeElements(body))) : undefined,
    );
  }
  const object = decodeTable(head);
  const ours = (chainHead === undefined ? 0 : 1) + entries.size;
  return {
    ...object,
    sets: entries,
    otherCount: object.use - ours,
    chain: chainHead === undefined ? undefined : chainOf(chainHead, rules),
  };
}

function chainOf(head: Uint8Array, list: NetlinkAnswer | undefined): SeenHostTable["chain"] {
  const { base, use } = decodeChain(head);
  const rules = (list?.messages ?? [])
    .map(({ body }) => decodeRule(body))
    .filter(({ chain }) => chain === HOST_CHAIN);
  return { isRight: hangsAt(base, HOST_HOOK) && list?.error === 0 && use === rules.length, rules };
}

/** @throws NetlinkError unless it is there or not */
function foundIn(answer: NetlinkAnswer | undefined): Uint8Array | undefined {
  const [message] = answer?.messages ?? [];
  if (message === undefined && answer !== undefined) checkFound("look for the host's probe rules", answer);
  return message?.body;
}
