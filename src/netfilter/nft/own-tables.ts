// SPDX-License-Identifier: Apache-2.0
// What is ours in a namespace, by name, and how the kernel is asked for it.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { getChain, getRules, getTable, type TablePlace } from "./nft-wire.ts";

/** A table that holds chains of ours: each with the base chain that leads into it, if there is one. */
export interface AskedTable extends TablePlace {
  readonly chains: readonly { readonly chain: string; readonly hook?: string | undefined }[];
}

/** What is asked: for a table, a chain, or the rules of either. */
export interface Question {
  readonly own: AskedTable;
  /** Absent: the table. */
  readonly chain?: string;
  readonly request: NetlinkRequest;
  readonly isList: boolean;
}

/** What is asked about tables. */
export interface Questions {
  readonly heads: readonly Question[];
  readonly tableLists: readonly Question[];
  /** Base chains last: others' rules can be too many for what comes behind them. */
  readonly chainLists: readonly Question[];
}

/** The same few lists are asked about all the time. */
const questionsOf = new WeakMap<readonly AskedTable[], Questions>();

/** The same list of tables gives the same questions. */
export function questionsAbout(own: readonly AskedTable[]): Questions {
  const known = questionsOf.get(own);
  if (known !== undefined) return known;
  const names = (table: AskedTable, kind: "chain" | "hook") => [
    ...new Set(table.chains.flatMap((chain) => chain[kind] ?? [])),
  ];
  const lists = (kind: "chain" | "hook") =>
    own.flatMap((table) =>
      names(table, kind).map((chain) => ({
        own: table,
        chain,
        request: getRules({ ...table, chain }),
        isList: true,
      })),
    );
  const questions = {
    heads: own.flatMap((table): Question[] => [
      { own: table, request: getTable(table), isList: false },
      ...[...names(table, "chain"), ...names(table, "hook")].map((chain) => ({
        own: table,
        chain,
        request: getChain({ ...table, chain }),
        isList: false,
      })),
    ]),
    tableLists: own.map((table) => ({ own: table, request: getRules(table), isList: true })),
    chainLists: [...lists("chain"), ...lists("hook")],
  };
  questionsOf.set(own, questions);
  return questions;
}
