// SPDX-License-Identifier: Apache-2.0
// A small stand-in for the kernel's tables: takes restore text with --noflush, prints save text, refuses what iptables refuses.
import { joinWords, splitWords } from "../../src/netfilter/save-parser.ts";

interface Table {
  chains: Map<string, string>;
  rules: { chain: string; words: string[] }[];
}

const BUILT_IN: Readonly<Record<string, readonly string[]>> = {
  mangle: ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
  raw: ["PREROUTING", "OUTPUT"],
  filter: ["INPUT", "FORWARD", "OUTPUT"],
};

export class RulesetModel {
  readonly tables = new Map<string, Table>();

  /** As `iptables-restore --noflush`: each table changes as a whole or not at all. */
  restore(text: string): void {
    let name: string | undefined;
    let draft: Table | undefined;
    for (const line of text.split("\n").filter((each) => each !== "")) {
      if (line.startsWith("*")) {
        name = line.slice(1);
        draft = structuredClone(this.tables.get(name) ?? newTable(name));
      } else if (name === undefined || draft === undefined) {
        throw new Error(`no table: ${line}`);
      } else if (line === "COMMIT") {
        this.tables.set(name, draft);
        name = undefined;
      } else {
        applyStatement(draft, splitWords(line)!);
      }
    }
    if (name !== undefined) throw new Error("COMMIT missing");
  }

  save(): string {
    return [...this.tables]
      .map(([name, { chains, rules }]) => {
        const head = [...chains].map(([chain, policy]) => `:${chain} ${policy} [0:0]`);
        const sorted = [...chains.keys()].flatMap((chain) => rules.filter((rule) => rule.chain === chain));
        const body = sorted.map((rule) => `-A ${joinWords([rule.chain, ...rule.words])}`);
        return ["# made by the model", `*${name}`, ...head, ...body, "COMMIT", ""].join("\n");
      })
      .join("");
  }

  /** Everything but our chains and the rules that lead into them. */
  saveForeign(): string {
    return this.save()
      .split("\n")
      .filter((line) => !/ISTIO_(PRERT|OUTPUT)\b/.test(line))
      .join("\n");
  }
}

function newTable(name: string): Table {
  return { chains: new Map((BUILT_IN[name] ?? []).map((chain) => [chain, "ACCEPT"])), rules: [] };
}

function applyStatement(table: Table, [first = "", chain = "", ...words]: string[]): void {
  const empty = (of: string) => {
    table.rules = table.rules.filter((rule) => rule.chain !== of);
  };
  if (first.startsWith(":")) {
    const made = first.slice(1);
    if (table.chains.get(made) !== "ACCEPT") {
      empty(made);
      table.chains.set(made, "-");
    }
    return;
  }
  if (!table.chains.has(chain)) throw new Error(`no chain ${chain}`);
  if (first === "-A") {
    const target = words[words.findIndex((word) => word === "-j" || word === "-g") + 1] ?? "";
    if (target.startsWith("ISTIO_") && !table.chains.has(target)) throw new Error(`no target ${target}`);
    table.rules.push({ chain, words });
  } else if (first === "-D") {
    const index = table.rules.findIndex(
      (rule) => rule.chain === chain && joinWords(rule.words) === joinWords(words),
    );
    if (index < 0) throw new Error(`no rule -A ${chain} ${joinWords(words)}`);
    table.rules.splice(index, 1);
  } else if (first === "-F") {
    empty(chain);
  } else if (first === "-X") {
    const isUsed = table.rules.some((rule) => rule.chain === chain || rule.words.includes(chain));
    if (isUsed || table.chains.get(chain) === "ACCEPT") throw new Error(`chain ${chain} is in use`);
    table.chains.delete(chain);
  } else {
    throw new Error(`no statement: ${first}`);
  }
}
