// SPDX-License-Identifier: Apache-2.0
// What is told for one family or two, as tables of nf_tables that hold the rules of both.
import { concatBytes, type NetlinkRequest } from "../../linux/netlink/message.ts";
import type { Family } from "../family.ts";
import { newChain, newRule, newTable } from "../nft/nft-wire.ts";
import type { ToldRule, ToldRules } from "../told-rules.ts";
import {
  encodeBase,
  hookedChains,
  type NativeHook,
  type NativeLayout,
  type NativeTableLayout,
  printHook,
} from "./native-layout.ts";
import { jumpTo, type NativePart, ofFamily } from "./native-parts.ts";
import { translateRule } from "./native-translation.ts";

/** A table that shall be there with exactly this in it. */
export interface NativeTable {
  readonly table: string;
  /** In the order in which they are made, and listed. */
  readonly chains: readonly NativeChain[];
  /** The changes that make it where it is not there: encoding takes longer than the kernel needs. */
  readonly requests: readonly NetlinkRequest[];
}

/** A chain with all its rules. */
export interface NativeChain {
  readonly chain: string;
  /** Present in a base chain. */
  readonly hook?: NativeHook;
  readonly rules: readonly NativeRule[];
}

/** A rule in words and bytes. */
export interface NativeRule {
  /** As nft lists it. */
  readonly words: string;
  readonly expressions: Uint8Array;
  /** The family that it is for; absent: for any. */
  readonly family?: Family;
  /** What was told that this stands for: of each family at most one rule. */
  readonly told?: readonly Pick<ToldRule, "family" | "words">[];
}

/** @throws RangeError for what cannot be said natively */
export function nativeTables(
  told: ToldRules,
  { layout, families }: { readonly layout: NativeLayout; readonly families: readonly Family[] },
): NativeTable[] {
  const isWanted = (layoutTable: NativeTableLayout) =>
    told.wanted.some(({ family, table }) => table === layoutTable.told && families.includes(family));
  return layout.filter(isWanted).map((table) => nativeTable(table, told, families));
}

/** What `nft --stateless list table` prints of each. */
export function printTables(tables: readonly NativeTable[]): string {
  return tables
    .map(({ table, chains }) => `table inet ${table} {\n${chains.map(printChain).join("\n")}}\n`)
    .join("");
}

/** A rule of these parts. */
export function nativeRule(parts: readonly NativePart[], family?: Family): NativeRule {
  const isSure = (needs: Uint8Array, at: number) => parts.findIndex((part) => part.needs === needs) < at;
  const expressions = parts.flatMap(({ needs, expressions }, at) =>
    needs === undefined || isSure(needs, at) ? expressions : [needs, ...expressions],
  );
  const rule = { words: parts.map(({ words }) => words).join(" "), expressions: concatBytes(...expressions) };
  return family === undefined ? rule : { ...rule, family };
}

function nativeTable(layout: NativeTableLayout, told: ToldRules, families: readonly Family[]): NativeTable {
  const rulesOf = (chain: string, family: Family) =>
    told.rules.filter((rule) => rule.table === layout.told && rule.chain === chain && rule.family === family);
  const isTold = (chain: string) =>
    told.own.some((own) => own.table === layout.told && own.chains.some((each) => each.chain === chain));
  const names = new Map(layout.chains.map((each) => [each.told, each.chain]));
  const [only, ...others] = layout.isForFamilies === true ? families : [];
  const isFamily = only !== undefined && others.length === 0 ? [ofFamily(only)] : [];
  const chains: NativeChain[] = [
    ...hookedChains(layout)
      .filter((each) => isTold(each.told))
      .map(({ chain, base }) => ({ ...base, rules: [nativeRule([...isFamily, jumpTo(chain)])] })),
    ...layout.chains
      .filter((each) => isTold(each.told))
      .map((each) => ({
        chain: each.chain,
        rules: merged(
          families.map((family) => rulesOf(each.told, family)),
          names,
        ),
      })),
  ];
  return { table: layout.table, chains, requests: creationOf(layout.table, chains) };
}

function creationOf(table: string, chains: readonly NativeChain[]): NetlinkRequest[] {
  const place = { family: "inet", table } as const;
  return [
    newTable(place),
    ...chains.map(({ chain, hook }) => newChain({ ...place, chain }, hook && encodeBase(hook))),
    ...chains.flatMap(({ chain, rules }) => rules.map((rule) => newRule({ ...place, chain }, rule))),
  ];
}

/** A told rule as it stands natively, beside the same of another family. */
interface Translated {
  readonly told: ToldRule;
  readonly parts: readonly NativePart[][];
  /** It names an address, so that it is for one family. */
  readonly isOfFamily: boolean;
}

/**
 * The rules of the families side by side. One that names no address is the same for all, and stands once: like istio-cni's it is
 * for both families, even where rules are told for one alone. Between two of these each family has its own, as many as it needs.
 */
function merged(lists: readonly (readonly ToldRule[])[], chains: ReadonlyMap<string, string>): NativeRule[] {
  const rest = lists.map((list) => list.map((told) => translated(told, chains)));
  const rules: NativeRule[] = [];
  while (rest.some(({ length }) => length > 0)) {
    const own = rest.filter(([first]) => first?.isOfFamily);
    if (own.length > 0) rules.push(...own.flatMap((list) => nativeRules(list.splice(0, 1))));
    else
      rules.push(
        ...nativeRules(
          rest.flatMap((list) => list.splice(0, 1)),
          rest.length,
        ),
      );
  }
  return rules;
}

function translated(told: ToldRule, chains: ReadonlyMap<string, string>): Translated {
  const parts = translateRule(told.args, chains);
  const isOfFamily = parts.some((rule) => rule.some(({ family }) => family !== undefined));
  return { told, parts, isOfFamily };
}

/** @param count of families that must have the rule @throws RangeError for a rule that one family has and another has not */
function nativeRules(same: readonly Translated[], count = 1): NativeRule[] {
  const [first] = same;
  if (first === undefined) return [];
  const { told, parts, isOfFamily } = first;
  if (same.length !== count || same.some((each) => each.told.words !== told.words))
    throw new RangeError(
      `Cannot say "${told.words}" natively: it names no address, and IPv${told.family} alone has it`,
    );
  // what one rule is told by, several together do
  return parts.map((each, index) => ({
    ...nativeRule(each, isOfFamily ? told.family : undefined),
    told: index === 0 ? same.map((one) => one.told) : [],
  }));
}

function printChain({ chain, hook, rules }: NativeChain): string {
  const lines = [...(hook === undefined ? [] : [printHook(hook)]), ...rules.map(({ words }) => words)];
  return `\tchain ${chain} {\n${lines.map((line) => `\t\t${line}\n`).join("")}\t}\n`;
}
