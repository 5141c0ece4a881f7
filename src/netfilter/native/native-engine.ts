// SPDX-License-Identifier: Apache-2.0
// Rules in pure nf_tables: tables that are wholly ours, written and compared over netlink; no program, nothing of xtables.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { Engine } from "../engine.ts";
import type { Family } from "../family.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { NftTalks } from "../nft/nft-talk.ts";
import { deleteRule, deleteTable } from "../nft/nft-wire.ts";
import { NOTHING_SEEN, type SeenObjects } from "../nft/own-objects.ts";
import type { NetnsCall, WantedRules } from "../rule-engine.ts";
import { askedTables, hookedChains, type NativeLayout } from "./native-layout.ts";
import { type NativeTable, nativeTables } from "./native-rules.ts";
import { type NativeTableVerdict, type NativeVerdict, verifyNative } from "./native-verify.ts";

export interface NativeEngineOptions {
  readonly layout: NativeLayout;
  /** Called before each conversation: a descriptor may be another namespace's by now. What it throws, the call throws. */
  readonly assertUsable?: (call: NetnsCall) => void;
}

/** Sets of rules whose bytes are kept. */
const MAX_KNOWN = 128;
/** Of a rule's place in a list. */
const MAX_PLACE_BYTES = 256;

/**
 * The pod's rules without iptables. A table that differs is made anew as a whole, in one batch with all others that differ; where
 * nothing differs nothing is written. Findings carry the names of the native tables and chains, and what concerns no family alone is
 * told under the first that was asked for; states are told for each family in the words and names that it was told.
 */
export class NativeEngine extends Engine<readonly NativeTable[], SeenObjects, NativeVerdict, NetlinkRequest> {
  constructor({ layout, assertUsable }: NativeEngineOptions) {
    const talks = new NftTalks({ own: askedTables(layout), assertUsable, bytesOf: listBytes });
    const known = new Map<string, readonly NativeTable[]>();
    super({
      variant: "native",
      holds: "tables",
      nothing: { known: [], families: [4] },
      nothingSeen: NOTHING_SEEN,
      known: (rules, { families }) => encoded(rules, { layout, families, known }),
      talk: (call, wanted) => talks.talk(call, wanted),
      counted: talks,
      judge: (seen, wanted) => verifyNative(layout, seen, wanted),
      chainsOf: ({ tables }) => tables.flatMap(({ chains }) => chains),
      plan: ({ tables }) => tables.flatMap(planTable),
      planOpening: ({ tables }, told) => tables.flatMap((table) => planOpening(table, { layout, told })),
      stillLeads: ({ tables }, told) => stillLeads(tables, { layout, told }),
    });
  }
}

/** Names in annotations of pods make sets of rules without end, so not all are kept. @throws RangeError for what cannot be said natively */
function encoded(
  { key, told }: Pick<WantedRules, "key" | "told">,
  {
    known,
    ...how
  }: { layout: NativeLayout; families: readonly Family[]; known: Map<string, readonly NativeTable[]> },
): readonly NativeTable[] {
  const place = `${how.families.join()} ${key}`;
  const kept = known.get(place);
  if (kept !== undefined) return kept;
  const tables = nativeTables(told(), how);
  const [oldest] = known.keys();
  if (known.size >= MAX_KNOWN && oldest !== undefined) known.delete(oldest);
  known.set(place, tables);
  return tables;
}

/** What a list of the rules takes at most: what stands beside a rule's expressions are names and numbers. */
function listBytes(tables: readonly NativeTable[]): number {
  const rules = tables.flatMap(({ chains }) => chains.flatMap((chain) => chain.rules));
  return rules.reduce((sum, { expressions }) => sum + expressions.length + MAX_PLACE_BYTES, 0);
}

/** A delete makes whoever closes the socket wait for an RCU grace period, so what is not there is not deleted. */
function planTable({ table, wanted, seen, findings }: NativeTableVerdict): readonly NetlinkRequest[] {
  if (findings.length === 0) return [];
  if (seen !== undefined) checkNotOwned(table, seen);
  return [
    ...(seen === undefined ? [] : [deleteTable({ family: "inet", table })]),
    ...(wanted?.requests ?? []),
  ];
}

/** A table as it is told. */
interface Opened {
  readonly layout: NativeLayout;
  readonly told: string;
}

/** Base chains become empty: no new connection is led anywhere, and as long as they are hooked, open ones stay translated. */
function planOpening({ table, seen }: NativeTableVerdict, opened: Opened): NetlinkRequest[] {
  const full = basesOf(table, opened).filter((base) => (seen?.chains.get(base)?.use ?? 0) > 0);
  if (seen !== undefined && full.length > 0) checkNotOwned(table, seen);
  return full.map((chain) => deleteRule({ family: "inet", table, chain }));
}

function basesOf(table: string, { layout, told }: Opened): string[] {
  const opened = layout.filter((each) => each.table === table && each.told === told);
  return opened.flatMap(hookedChains).map(({ base }) => base.chain);
}

function stillLeads(
  tables: readonly NativeTableVerdict[],
  { layout, told }: Opened,
): NetfilterFault | undefined {
  const opened = layout.filter((each) => each.told === told);
  const led = opened.flatMap((each) => {
    const seen = tables.find(({ table }) => table === each.table)?.seen;
    return hookedChains(each).filter(({ chain }) => {
      const found = seen?.chains.get(chain);
      return found !== undefined && found.use > found.rules.length;
    });
  });
  const [first] = led;
  if (first === undefined) return undefined;
  return new NetfilterFault("NOT_AS_TOLD", `Cannot open: a chain of others leads into ${first.chain}`);
}

function checkNotOwned(table: string, { isOwned }: { readonly isOwned: boolean }): void {
  if (!isOwned) return;
  throw new NetfilterFault(
    "TABLE_OWNED",
    `Cannot write table inet ${table}: a process owns it (nft "flags owner"), and only that one may change it; ` +
      "end that process",
  );
}
