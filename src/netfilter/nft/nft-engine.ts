// SPDX-License-Identifier: Apache-2.0
// Rules of iptables-nft without its programs: known bytes are replayed and compared. What the kernel does not take from us, the
// program writes, and the bytes prove it all the same.
import type { NetlinkRequest } from "../../linux/netlink/message.ts";
import { statesOfChains } from "../chain-verdict.ts";
import { type Dialect, Engine } from "../engine.ts";
import type { Family } from "../family.ts";
import { KnownBytes } from "../known-bytes.ts";
import { NetfilterFault } from "../netfilter-fault.ts";
import { checkInstalled, type ProgramEngineOptions } from "../tables-program.ts";
import { type KnownRules, knownRules } from "./nft-known.ts";
import { planOpening, planReplay } from "./nft-plan.ts";
import { NftTalks } from "./nft-talk.ts";
import { NOTHING_SEEN, readOwnObjects, type SeenObjects } from "./own-objects.ts";
import { type NftVerdict, verifyOwnObjects } from "./verify.ts";

const ALL_FAMILIES: readonly Family[] = [4, 6];

/** Rules byte by byte. */
export class NftEngine extends Engine<KnownRules, SeenObjects, NftVerdict, NetlinkRequest> {
  constructor(options: ProgramEngineOptions) {
    super(nftDialect(options));
  }
}

/** How nf_tables are spoken to where iptables-nft has its rules. */
export function nftDialect(
  options: ProgramEngineOptions,
): Dialect<KnownRules, SeenObjects, NftVerdict, NetlinkRequest> {
  const { own, program, assertUsable, timeoutMs } = options;
  const talks = new NftTalks<KnownRules>({ own, assertUsable });
  const bytes = new KnownBytes({
    record: (told) =>
      checkInstalled(program).record(told, async (netns) =>
        knownRules(told, await readOwnObjects(netns, told.own)),
      ),
  });
  return {
    variant: "nft",
    holds: "chains",
    nothing: { known: { own, tables: [] }, families: ALL_FAMILIES },
    keep: (key) => bytes.keep(key),
    known: (rules, { signal }) => bytes.within(rules, { ms: timeoutMs, signal }),
    nothingSeen: NOTHING_SEEN,
    talk: (call, wanted) => talks.talk(call, wanted),
    counted: talks,
    judge: verifyOwnObjects,
    chainsOf: ({ tables }) => tables.flatMap((table) => statesOfChains(table, table.chains)),
    plan: planReplay,
    planOpening,
    stillLeads,
    rewrite: (call, rules, chains) => checkInstalled(program).rewrite(call, rules, chains),
  };
}

function stillLeads({ tables }: NftVerdict, opened: string): NetfilterFault | undefined {
  const isLedInto = tables.some(
    ({ table, chains }) =>
      table === opened && chains.some(({ seen }) => seen !== undefined && seen.use > seen.rules.length),
  );
  if (!isLedInto) return undefined;
  return new NetfilterFault(
    "NOT_AS_TOLD",
    `Cannot open table ${opened}: a chain of somebody else leads into ours; look for who writes rules in this namespace`,
  );
}
