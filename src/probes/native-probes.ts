// SPDX-License-Identifier: Apache-2.0
// The host's share in native nftables: one table with a rule for each family and the sets that these name; no program, nothing of xtables.
import type { NetlinkRequest } from "../linux/netlink/message.ts";
import type { Netns } from "../linux/netns.ts";
import type { Family } from "../netfilter/family.ts";
import { encodeBase } from "../netfilter/native/native-layout.ts";
import { addElements, deleteElements, newSet, type SetPlace } from "../netfilter/native/native-sets.ts";
import { findNativeTables, nativeTableName, removeNativeTables } from "../netfilter/native/native-tables.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { type Ask, ask, deleteTable, newChain, newRule, newTable } from "../netfilter/nft/nft-wire.ts";
import { writeBefore } from "../netfilter/write-batch.ts";
import type { HostForm, SeenHost, WantedHost } from "./host-form.ts";
import {
  HOST_CHAIN,
  HOST_HOOK,
  HOST_SET_COMMENT,
  HOST_TABLE,
  type HostRules,
  hasRules,
  hostRulesOf,
  readHostTable,
  type SeenHostTable,
  setsOf,
} from "./native-probe-table.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { PROBE_SETS } from "./probe-set.ts";
import { type HostMembers, type MemberFinding, memberFindings, type SetEntries } from "./set-members.ts";

/** The table of one host, wholly ours; its sets are changed entry by entry. */
export class NativeProbes implements HostForm {
  readonly #snat: Readonly<Record<Family, string>>;
  #writes = 0;

  constructor(snat: Readonly<Record<Family, string>>) {
    this.#snat = snat;
  }

  get unannounced() {
    return "nothing" as const;
  }

  get counts() {
    return { setWrites: 0, ruleWrites: this.#writes };
  }

  /** @throws {NetfilterFault} TABLE_DORMANT, TABLE_OWNED, UNSTEADY, BATCH_REFUSED, NOT_AS_TOLD; NetlinkError, NativeError */
  async observe(netns: Netns, { families, members, match }: WantedHost): Promise<SeenHost> {
    const rules = this.#rules(families, match.uid);
    const seen = await readHostTable(askIn(netns), rules);
    const entries = [...(seen?.sets.values() ?? [])];
    return {
      drift: judge(seen, rules, members),
      entryCount: entries.reduce((sum, set) => sum + (set?.size ?? 0), 0),
      write: async () => {
        const after = await write(askIn(netns), seen, { rules, members });
        this.#writes++;
        const [first] = judge(after, rules, members);
        if (first === undefined) return;
        throw new NetfilterFault(
          "NOT_AS_TOLD",
          `Cannot bring the host's probe rules about: they differ right after they were written (${first.detail}); ` +
            "look for another program that writes the same table",
        );
      },
    };
  }

  async entries(netns: Netns, families: readonly Family[]): ReturnType<HostForm["entries"]> {
    if ((await findNativeTables(netns.fd)).length === 0) return new Map();
    const seen = await readHostTable(askIn(netns), this.#rules(families));
    return new Map([...(seen?.sets ?? [])].flatMap(([family, set]) => (set ? [[family, set]] : [])));
  }

  async remove(netns: Netns): Promise<ProbeDrift[]> {
    const tables = await findNativeTables(netns.fd);
    if (tables.length === 0) return [];
    await removeNativeTables(netns.fd, tables);
    const detail = `${tables.map(nativeTableName).join(", ")} of NATIVE_NFTABLES=true was there`;
    return [{ kind: "leftover", family: 4, detail }];
  }

  #rules(families: readonly Family[], socket: number | "any" = "any"): HostRules {
    return { families, sets: PROBE_SETS, snat: this.#snat, socket };
  }
}

/** What should be there. */
interface Wanted {
  readonly rules: HostRules;
  readonly members: HostMembers;
}

function judge(seen: SeenHostTable | undefined, rules: HostRules, members: HostMembers): ProbeDrift[] {
  const [family = 4] = rules.families;
  if (seen?.isDormant === true)
    throw new NetfilterFault(
      "TABLE_DORMANT",
      `Cannot let probes pass by table inet ${HOST_TABLE}: somebody put it to sleep; wake it up with nft`,
    );
  const drift: ProbeDrift[] = [];
  const find = (kind: ProbeDrift["kind"], detail: string) => drift.push({ kind, family, detail });
  if (seen?.chain === undefined)
    find("missing-chain", `chain ${HOST_CHAIN} of table inet ${HOST_TABLE} is not there`);
  else if (!hasRules(seen, hostRulesOf(rules)))
    find("wrong-rules", `chain ${HOST_CHAIN} of table inet ${HOST_TABLE} holds other rules`);
  if (seen !== undefined && seen.otherCount > 0)
    find("leftover", `table inet ${HOST_TABLE} holds ${seen.otherCount} chains or sets that are not ours`);
  for (const set of setsOf(rules)) {
    const entries = seen?.sets.get(set.family);
    if (entries === undefined) drift.push(setDrift(set, seen?.sets.has(set.family) === true));
    drift.push(...findingsIn(set.family, entries ?? new Map(), members));
  }
  return drift;
}

/** In one batch, of which nothing stays when it is refused. @returns what is there then */
async function write(
  askKernel: Ask,
  seen: SeenHostTable | undefined,
  wanted: Wanted,
): Promise<SeenHostTable | undefined> {
  if (seen?.isOwned === true)
    throw new NetfilterFault(
      "TABLE_OWNED",
      `Cannot write table inet ${HOST_TABLE} of the host: a process owns it (nft "flags owner"); end that process`,
    );
  const writing = writeBefore(askKernel, plan(seen, wanted));
  const after = await readHostTable(writing.ask, wanted.rules);
  const refusal = writing.refusal();
  if (refusal !== undefined) throw refusal;
  return after;
}

function plan(seen: SeenHostTable | undefined, { rules, members }: Wanted): NetlinkRequest[] {
  const sets = setsOf(rules);
  const isSound =
    seen !== undefined &&
    hasRules(seen, hostRulesOf(rules)) &&
    seen.otherCount === 0 &&
    sets.every(({ family }) => seen.sets.get(family) !== undefined);
  if (isSound) return sets.flatMap((set) => patchSet(set, seen.sets.get(set.family) ?? new Map(), members));
  const place = { family: "inet", table: HOST_TABLE } as const;
  const chain = { ...place, chain: HOST_CHAIN };
  return [
    ...(seen === undefined ? [] : [deleteTable(place)]),
    newTable(place),
    ...sets.map((set, index) => newSet(set, { id: index + 1, comment: HOST_SET_COMMENT })),
    ...sets.flatMap((set) => addElements(set, remaining(set.family, seen?.sets.get(set.family), members))),
    newChain(chain, encodeBase(HOST_HOOK)),
    ...hostRulesOf(rules).map((rule) => newRule(chain, rule)),
  ];
}

function askIn(netns: Netns): Ask {
  return (requests, enoughBytes) => ask(netns.fd, requests, { enoughBytes });
}

function setDrift({ set, family }: SetPlace, isThere: boolean): ProbeDrift {
  return isThere
    ? { kind: "wrong-set", family, detail: `set ${set} was made by something else` }
    : { kind: "missing-set", family, detail: `set ${set} is not there` };
}

/** An entry's comment is changed by making the entry anew, in the same step. */
function patchSet(set: SetPlace, entries: SetEntries, members: HostMembers): NetlinkRequest[] {
  const found = findingsIn(set.family, entries, members);
  const gone = found.filter(({ kind }) => kind !== "missing-member").map(({ address }) => address);
  const owned = found.filter(({ kind }) => kind !== "stale-member");
  return [
    ...deleteElements(set, gone),
    ...addElements(set, new Map(owned.map(({ address, uid }) => [address, uid]))),
  ];
}

function findingsIn(family: Family, entries: SetEntries, { owners, isStale }: HostMembers): MemberFinding[] {
  return memberFindings(family, entries, { owners: owners[family], isStale });
}

/** What a set made anew holds: entries that are not known to be out of date move along. */
function remaining(family: Family, entries: SetEntries = new Map(), members: HostMembers): SetEntries {
  const kept = [...entries].filter(([, comment]) => !members.isStale(comment));
  return new Map([...kept, ...members.owners[family]]);
}
