// SPDX-License-Identifier: Apache-2.0
// Brings known rules about in a namespace: one batch for both families, taken as a whole or not at all.

import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { NetfilterFault, notAsToldFault } from "../netfilter-fault.ts";
import { writeBefore } from "../write-batch.ts";
import type { Ask } from "./nft-wire.ts";
import { ask, deleteChain, deleteRule, namesByHandle } from "./nft-wire.ts";
import { readOwnObjects, type SeenObjects } from "./own-objects.ts";
import {
  type ChainVerdict,
  type Entry,
  type TableVerdict,
  type Verdict,
  verifyOwnObjects,
  type Wanted,
} from "./verify.ts";

/**
 * The changes that turn what was found into what should be there, tables and chains before the rules that name them. Adds to
 * tables and base chains that are there, and takes away nothing but rules and chains of ours; empty when nothing differs.
 * @throws {NetfilterFault} TABLE_OWNED
 */
export function planReplay({ tables }: Verdict): NetlinkRequest[] {
  return tables.filter(({ findings }) => findings.length > 0).flatMap(planTable);
}

/** The changes that take away what leads into our chains of one table, and nothing else. @throws as {@link planReplay} */
export function planOpening({ tables }: Verdict, options: { readonly table: string }): NetlinkRequest[] {
  return tables
    .filter(({ table }) => table === options.table)
    .flatMap((table) => {
      const changes = deleteEntries(
        table,
        table.chains.flatMap(({ jumps, strays }) => [...jumps, ...strays]),
      );
      if (changes.length > 0) checkNotOwned(table);
      return changes;
    });
}

/** What bringing rules about took. */
export interface ReplayReport {
  /** What was there before, and is there now. */
  readonly before: Verdict;
  readonly after: Verdict;
  /** Batches that were taken. */
  readonly writes: number;
}

/** How a namespace is written. */
export interface ReplayOptions {
  /** How the kernel is asked, default {@link ask}. */
  readonly ask?: Ask;
  /** Default {@link planReplay}. */
  readonly plan?: (verdict: Verdict) => NetlinkRequest[];
  /** What was read just now; default: it is read. What is wrong in it costs a refused batch. */
  readonly found?: SeenObjects;
}

/** The first round writes; the second exists for whoever wrote at the same moment. */
const MAX_ROUNDS = 2;

/**
 * Reads, writes what differs, and reads again until nothing does. To bring nothing about, that is to remove what is ours, name no
 * known table.
 * @throws {NetfilterFault} BATCH_REFUSED: nothing of the last batch stayed; NOT_AS_TOLD: the namespace still differs; TABLE_OWNED
 *   and as {@link readOwnObjects} and {@link verifyOwnObjects}
 * @throws NetlinkError, NativeError as {@link readOwnObjects}
 */
export async function replay(
  netns: { readonly fd: number },
  wanted: Wanted,
  options: ReplayOptions = {},
): Promise<ReplayReport> {
  const { plan = planReplay } = options;
  const { own } = wanted.known;
  const isDone = ({ findings }: Verdict) => options.plan === undefined && findings.length === 0;
  const askKernel: Ask = options.ask ?? ((requests, enoughBytes) => ask(netns.fd, requests, { enoughBytes }));
  let seen = options.found ?? (await readOwnObjects(netns, own, { ask: askKernel }));
  const before = verifyOwnObjects(seen, wanted);
  let after = before;
  for (let round = 0, writes = 0; ; round++) {
    const changes = isDone(after) ? [] : plan(after);
    if (changes.length === 0 && (isDone(after) || options.plan !== undefined))
      return { before, after, writes };
    if (round === MAX_ROUNDS || changes.length === 0) throw notAsTold(after);
    const isOfNow = changes.some(namesByHandle);
    const writing = writeBefore(askKernel, changes, isOfNow ? seen.changeCount : undefined);
    seen = await readOwnObjects(netns, own, { ask: writing.ask });
    const refusal = writing.refusal();
    // somebody else may have been faster; what is there now says whether it was that
    if (refusal !== undefined && round > 0) throw refusal;
    if (refusal === undefined) writes++;
    after = verifyOwnObjects(seen, wanted);
  }
}

function planTable(table: TableVerdict): NetlinkRequest[] {
  checkNotOwned(table);
  const { wanted, seen, chains } = table;
  if (wanted === undefined) return removeChains(table);
  const hooks = wanted.hooks.filter(({ chain }) => seen?.chains.has(chain) !== true);
  const surplus = chains.flatMap(({ jumps, jump, strays }) => [
    ...jumps.filter((each) => each !== jump),
    ...strays,
  ]);
  return [
    ...(seen === undefined ? [wanted.request] : []),
    ...chains.flatMap((chain) => (chain.seen === undefined && chain.wanted ? [chain.wanted.request] : [])),
    ...hooks.map(({ request }) => request),
    ...chains.flatMap((chain) => fill(table, chain)),
    ...chains.flatMap(({ jump, wanted }) =>
      jump === undefined && wanted?.jump !== undefined ? [wanted.jump.request] : [],
    ),
    ...deleteEntries(table, surplus),
  ];
}

/** Rewritten as a whole, so that no rule that a list does not show stays behind. */
function fill(table: TableVerdict, verdict: ChainVerdict): NetlinkRequest[] {
  const { chain, wanted, seen, jumps, strays, ownLeads } = verdict;
  if (seen !== undefined) {
    const isCounted = seen.use === seen.rules.length + jumps.length + strays.length + ownLeads;
    if (verdict.hasRules && isCounted) return [];
  }
  const rules = wanted?.rules.map(({ request }) => request) ?? [];
  return seen === undefined ? rules : [deleteRule({ ...table, chain }), ...rules];
}

function removeChains(table: TableVerdict): NetlinkRequest[] {
  const present = table.chains.filter(({ seen }) => seen !== undefined);
  const places = present.map(({ chain }) => ({ ...table, chain }));
  return [
    ...deleteEntries(
      table,
      present.flatMap(({ jumps, strays }) => [...jumps, ...strays]),
    ),
    // one chain's rules may lead into the other
    ...places.map((place) => deleteRule(place)),
    ...places.map((place) => deleteChain(place)),
  ];
}

/** A rule that leads into two of our chains is deleted once. */
function deleteEntries(table: TableVerdict, entries: readonly Entry[]): NetlinkRequest[] {
  const unique = new Map(entries.map((entry) => [Buffer.from(entry.handle).toString("hex"), entry]));
  return [...unique.values()].map(({ hook, handle }) => deleteRule({ ...table, chain: hook }, handle));
}

function checkNotOwned({ family, table, seen }: TableVerdict): void {
  if (seen?.isOwned !== true) return;
  throw new NetfilterFault(
    "TABLE_OWNED",
    `Cannot write table ${table} of IPv${family}: a process owns it (nft "flags owner"), and only that one may change it`,
  );
}

function notAsTold({ findings }: Verdict): NetfilterFault {
  return notAsToldFault(
    findings.map(({ family, table, detail }) => `IPv${family} ${table}: ${detail}`),
    "chains",
  );
}
