// SPDX-License-Identifier: Apache-2.0
// What is told for one family or two, as tables of nf_tables that hold the rules of both.
import type { Family } from "../family.ts";
import type { ToldRule, ToldRules } from "../told-rules.ts";
import { encodeRule } from "./native-encoding.ts";
import { type NativeHook, type NativeLayout, type NativeTableLayout, printHook } from "./native-layout.ts";
import type { NativePart } from "./native-rule.ts";
import { printRule } from "./native-text.ts";
import { translateRule } from "./native-translation.ts";

/** A table that shall be there with exactly this in it. */
export interface NativeTable {
  readonly table: string;
  /** In the order in which they are made, and listed. */
  readonly chains: readonly NativeChain[];
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
  const rule = { words: printRule(parts), expressions: encodeRule(parts) };
  return family === undefined ? rule : { ...rule, family };
}

function nativeTable(
  { told: toldTable, table, chains }: NativeTableLayout,
  told: ToldRules,
  families: readonly Family[],
): NativeTable {
  const rulesOf = (chain: string, family: Family) =>
    told.rules.filter((rule) => rule.table === toldTable && rule.chain === chain && rule.family === family);
  return {
    table,
    chains: [
      ...chains.map(({ chain, base, hook }) => ({
        chain: base,
        hook,
        rules: [nativeRule([{ kind: "jump", chain }])],
      })),
      ...chains.map((each) => ({
        chain: each.chain,
        rules: merged(families.map((family) => rulesOf(each.told, family))),
      })),
    ],
  };
}

/**
 * The rules of the families side by side. One that names no address is the same for all, and stands once: like istio-cni's it is
 * for both families, even where rules are told for one alone.
 */
function merged(lists: readonly (readonly ToldRule[])[]): NativeRule[] {
  const count = Math.max(0, ...lists.map(({ length }) => length));
  return Array.from({ length: count }, (_, index) => lists.flatMap((list) => list[index] ?? [])).flatMap(
    (sameRule) =>
      [...Map.groupBy(sameRule, ({ args }) => args.join(" ")).values()].flatMap((told) => {
        const [first] = told;
        if (first === undefined) return [];
        const parts = translateRule(first.args);
        const hasFamily = parts.some(({ kind }) => kind === "address");
        return [{ ...nativeRule(parts, hasFamily ? first.family : undefined), told }];
      }),
  );
}

function printChain({ chain, hook, rules }: NativeChain): string {
  const lines = [...(hook === undefined ? [] : [printHook(hook)]), ...rules.map(({ words }) => words)];
  return `\tchain ${chain} {\n${lines.map((line) => `\t\t${line}\n`).join("")}\t}\n`;
}
