// SPDX-License-Identifier: Apache-2.0
// What iptables-legacy makes of told rules in x_tables, byte by byte, and the statements that make them again.

import type { Netns } from "../../linux/netns.ts";
import { existingXtablesInNetns } from "../../linux/xtables-netns.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { renderRule } from "../restore-text.ts";
import { type OwnChain, type OwnTable, rulesOf, type ToldRules, wantedTables } from "../told-rules.ts";
import { isPlainJump, type XtablesRule } from "./xtables-entry.ts";
import { findOwn, type XtablesView } from "./xtables-table.ts";

/** A rule as the kernel shows it, and as the program is told it. */
export interface KnownXtablesRule {
  readonly words: string;
  readonly rule: XtablesRule;
  readonly statement: string;
}

/** A chain of ours. */
export interface KnownXtablesChain extends OwnChain {
  readonly rules: readonly KnownXtablesRule[];
  readonly end: XtablesRule;
}

/** A table that holds chains of ours. */
export interface KnownXtablesTable extends Pick<OwnTable, "family" | "table"> {
  readonly chains: readonly KnownXtablesChain[];
}

/** Rules byte by byte. */
export interface KnownXtables {
  readonly own: readonly OwnTable[];
  readonly tables: readonly KnownXtablesTable[];
}

/** What the kernel has of told rules where nothing else is. @throws {NetfilterFault} NOT_AS_TOLD @throws NativeError */
export async function readKnownXtables({ fd }: Netns, told: ToldRules): Promise<KnownXtables> {
  const wanted = wantedTables(told);
  const shares = await existingXtablesInNetns(fd, wanted);
  const tables = wanted.map((own, index) => {
    const share = shares[index];
    if (share === undefined) throw notAsTold(own, "it is not there");
    return knownTable(own, told, findOwn(share, own));
  });
  return { own: told.own, tables };
}

/** Pairs what was told with what was read where nothing else is. @throws {NetfilterFault} NOT_AS_TOLD */
export function knownTable(own: OwnTable, told: ToldRules, view: XtablesView): KnownXtablesTable {
  const { family, table } = own;
  const chains = own.chains.map((chain): KnownXtablesChain => {
    const rules = rulesOf(told, { family, table, chain: chain.chain });
    const found = view.chains.get(chain.chain);
    if (found?.end === undefined || found.rules.length !== rules.length || found.ruleCount !== rules.length)
      throw notAsTold(own, `${chain.chain} has ${found?.ruleCount ?? "no"} rules instead of ${rules.length}`);
    const [lead, ...others] = view.leads.filter((each) => each.chain === chain.chain);
    const isJump =
      chain.hook === undefined
        ? lead === undefined
        : lead?.isBase === true && lead.from === chain.hook && isPlainJump(lead.rule, chain.chain, family);
    if (!isJump || others.length > 0) throw notAsTold(own, `not one plain rule leads into ${chain.chain}`);
    return {
      ...chain,
      end: found.end,
      rules: rules.map((rule, index) => ({
        words: rule.words,
        rule: found.rules[index] as XtablesRule,
        statement: renderRule(rule),
      })),
    };
  });
  return { family, table, chains };
}

function notAsTold({ family, table }: OwnTable, why: string): NetfilterFault {
  return new NetfilterFault(
    "NOT_AS_TOLD",
    `Cannot read back the legacy table ${table} of IPv${family} as it was written: ${why}`,
  );
}
