// SPDX-License-Identifier: Apache-2.0
// Counts the rules that others keep in nf_tables through iptables, by what the kernel itself counts where they are many.
import { NativeError } from "../../linux/native.ts";
import { check, errorCode, NetlinkError } from "../../linux/netlink/exchange.ts";
import {
  decodeString,
  forEachAttribute,
  type NetlinkAnswer,
  type NetlinkRequest,
  viewOf,
} from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import { addCounts, isIstioChain, noRules, type RuleCount } from "../rule-count.ts";
import { decodeRule } from "./nft-objects.ts";
import { ask, CHAIN, getChains, getRules, HEADER_BYTES } from "./nft-wire.ts";

/** Tables that iptables-nft keeps in nf_tables. Source: iptables/iptables iptables/nft.c xtables_ipv4. */
const IPTABLES_TABLES: readonly string[] = ["raw", "mangle", "nat", "filter", "security"];
const FAMILIES: readonly Family[] = [4, 6];

/** Bounds in bytes of what is heard. */
const LIMITS = {
  /** Of all rules together: some hundred rules of kube-proxy. */
  rules: 64 * 1024,
  /** Of the chains of one family: 100,000 of them. Of more the first are counted. */
  chains: 8 * 1024 * 1024,
} as const;
const MAX_READS = 3;

/** What the kernel counts in a table. */
interface TableUse {
  /** Rules and verdicts that lead into a chain, in all chains. */
  use: number;
  /** The same and the chains with names, of which an entry of x_tables says where they begin. */
  entries: number;
}

/**
 * Asks for the first rules of each table and for all chains, of which the kernel tells how many rules they have. What a rule
 * says does not matter.
 * @throws NetlinkError EPERM, EINVAL: a kernel without nf_tables @throws NativeError EPROTONOSUPPORT: a kernel without nfnetlink; others
 *   if the conversation with the kernel failed each time: see {@link isAnswer}
 */
export async function countNftRules(netnsFd: number): Promise<RuleCount> {
  const places = FAMILIES.flatMap((family) => IPTABLES_TABLES.map((table) => ({ family, table })));
  const lists = await hear(netnsFd, places.map(getRules), LIMITS.rules);
  let sum = noRules;
  for (const family of FAMILIES) {
    const uses = countUses(await hear(netnsFd, [getChains(family)], LIMITS.chains));
    for (const [index, place] of places.entries()) {
      const list = lists[index];
      const use = place.family === family ? uses.get(place.table) : undefined;
      if (list !== undefined && use !== undefined) sum = addCounts(sum, countTable(list, use));
    }
  }
  return sum;
}

/** A list is believed where it has as many rules and verdicts as the kernel counts: it may end early for more than one reason. */
function countTable(list: NetlinkAnswer, { use, entries }: TableUse): RuleCount {
  const rules = list.messages.map(({ body }) => decodeRule(body));
  const heard = rules.reduce((sum, { targets }) => sum + 1 + targets.length, 0);
  if (heard !== use) return { rules: undefined, entries };
  const others = rules.filter(({ chain, targets }) => !isIstioChain(chain) && !targets.some(isIstioChain));
  return { rules: others.length, entries };
}

/** By table. Makes no views: a host can have 100,000 chains. */
function countUses(answers: readonly NetlinkAnswer[]): Map<string, TableUse> {
  const uses = new Map<string, TableUse>();
  for (const { body } of answers.flatMap(({ messages }) => messages)) {
    let [table, isBase, use] = ["", false, 0];
    const view = viewOf(body);
    forEachAttribute(body, HEADER_BYTES, body.length, (type, start, end) => {
      if (type === CHAIN.table) table = decodeString(body, start, end);
      else if (type === CHAIN.hook) isBase = true;
      else if (type === CHAIN.use && end - start === 4) use = view.getUint32(start);
    });
    const sum = uses.get(table) ?? { use: 0, entries: 0 };
    sum.use += use;
    sum.entries += use + (isBase ? 0 : 1);
    uses.set(table, sum);
  }
  return uses;
}

/** What is heard of lists, to their end or not. @throws NetlinkError for a refusal @throws NativeError */
async function hear(
  netnsFd: number,
  requests: readonly NetlinkRequest[],
  enoughBytes: number,
): Promise<NetlinkAnswer[]> {
  for (let attempt = 1; ; attempt++) {
    try {
      const answers = await ask(netnsFd, requests, { enoughBytes });
      for (const answer of answers) if (!isPartial(answer)) check("list nf_tables rules", answer);
      return answers;
    } catch (error) {
      if (isAnswer(error) || attempt === MAX_READS) throw error;
    }
  }
}

/**
 * Whether the kernel has said by this that it has no nf_tables for us. A conversation that failed says nothing: the kernel may have dropped
 * the answer for want of room (ENOBUFS), or be loading modules for it still (ETIMEDOUT).
 */
export function isAnswer(error: unknown): boolean {
  return error instanceof NetlinkError || (error instanceof NativeError && error.code === "EPROTONOSUPPORT");
}

/** It was left in the middle, or changed while it was made; a number of that size is all that is wanted. */
function isPartial({ error }: NetlinkAnswer): boolean {
  return error === undefined || errorCode(error) === "EINTR";
}
