// SPDX-License-Identifier: Apache-2.0
// The host's rule for probes in pure nf_tables: connections of host sockets to enrolled pods get a source address of their own.
import type { NetlinkRequest } from "../linux/netlink/message.ts";
import type { Family } from "../netfilter/family.ts";
import { encodeBase } from "../netfilter/native/native-layout.ts";
import { addElements, deleteElements, newSet, type SetPlace } from "../netfilter/native/native-sets.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import type { Ask } from "../netfilter/nft/nft-wire.ts";
import { ask, deleteTable, newChain, newRule, newTable } from "../netfilter/nft/nft-wire.ts";
import { writeBefore } from "../netfilter/write-batch.ts";
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
import { type HostMembers, type MemberFinding, memberFindings, type SetEntries } from "./set-members.ts";

/** One way in which the host differs from what it should be. */
export interface HostFinding {
  readonly kind:
    | "missing-set"
    | "wrong-set"
    | MemberFinding["kind"]
    | "missing-chain"
    | "wrong-rules"
    | "leftover";
  readonly family: Family;
  /** The pod whose the entry should be (`missing-member`, `wrong-owner`), or says to be (`stale-member`). */
  readonly uid?: string;
  readonly detail: string;
}

/** What was found. */
export interface HostLook {
  /** None: everything is as it should be. */
  readonly findings: readonly HostFinding[];
  /** Comments by address, of each set that is there. */
  readonly members: ReadonlyMap<Family, SetEntries>;
}

interface Netns {
  readonly fd: number;
}

/** One table of the host, wholly ours; its sets are changed entry by entry. */
export class NativeHost {
  readonly #rules: HostRules;

  constructor(rules: HostRules) {
    this.#rules = rules;
  }

  /** Compares; writes nothing. @throws {NetfilterFault} TABLE_DORMANT, UNSTEADY @throws NetlinkError, NativeError */
  async look(netns: Netns, wanted: HostMembers): Promise<HostLook> {
    return this.#judge(await readHostTable(askIn(netns), this.#rules), wanted);
  }

  /** Comments by address, of each set that is there; nothing is judged. @throws {NetfilterFault} UNSTEADY @throws NetlinkError, NativeError */
  async entries(netns: Netns): Promise<ReadonlyMap<Family, SetEntries>> {
    const sets = (await readHostTable(askIn(netns), this.#rules))?.sets ?? new Map();
    return new Map([...sets].filter(([, entries]) => entries !== undefined));
  }

  /**
   * Writes what differs in one batch, and proves it; writes nothing where everything is right.
   * @returns what was there before @throws {NetfilterFault} BATCH_REFUSED: nothing of it stayed; NOT_AS_TOLD, TABLE_OWNED
   * @throws as {@link look}
   */
  async apply(netns: Netns, wanted: HostMembers): Promise<HostLook & { readonly writes: number }> {
    const askKernel = askIn(netns);
    const seen = await readHostTable(askKernel, this.#rules);
    const before = this.#judge(seen, wanted);
    if (before.findings.length === 0) return { ...before, writes: 0 };
    const after = this.#judge(await this.#write(askKernel, seen, this.#plan(seen, wanted)), wanted);
    const [first] = after.findings;
    if (first === undefined) return { ...before, writes: 1 };
    throw new NetfilterFault(
      "NOT_AS_TOLD",
      `Cannot bring the host's probe rules about: they differ right after they were written (${first.detail}); ` +
        "look for another program that writes the same table",
    );
  }

  async #write(
    askKernel: Ask,
    seen: SeenHostTable | undefined,
    changes: readonly NetlinkRequest[],
  ): Promise<SeenHostTable | undefined> {
    if (seen?.isOwned === true)
      throw new NetfilterFault(
        "TABLE_OWNED",
        `Cannot write table inet ${HOST_TABLE} of the host: a process owns it (nft "flags owner"); end that process`,
      );
    const writing = writeBefore(askKernel, changes);
    const after = await readHostTable(writing.ask, this.#rules);
    const refusal = writing.refusal();
    if (refusal !== undefined) throw refusal;
    return after;
  }

  #judge(seen: SeenHostTable | undefined, wanted: HostMembers): HostLook {
    const { families } = this.#rules;
    const [family = 4] = families;
    if (seen?.isDormant === true)
      throw new NetfilterFault(
        "TABLE_DORMANT",
        `Cannot let probes pass by table inet ${HOST_TABLE}: somebody put it to sleep; wake it up with nft`,
      );
    const findings: HostFinding[] = [];
    const find = (kind: HostFinding["kind"], detail: string) => findings.push({ kind, family, detail });
    if (seen?.chain === undefined)
      find("missing-chain", `chain ${HOST_CHAIN} of table inet ${HOST_TABLE} is not there`);
    else if (!hasRules(seen, hostRulesOf(this.#rules)))
      find("wrong-rules", `chain ${HOST_CHAIN} of table inet ${HOST_TABLE} holds other rules`);
    if (seen !== undefined && seen.otherCount > 0)
      find("leftover", `table inet ${HOST_TABLE} holds ${seen.otherCount} chains or sets that are not ours`);
    const members = new Map<Family, SetEntries>();
    for (const set of setsOf(this.#rules)) {
      const entries = seen?.sets.get(set.family);
      if (entries !== undefined) members.set(set.family, entries);
      const isThere = seen?.sets.has(set.family) === true;
      findings.push(...(entries === undefined ? [setFinding(set, isThere)] : []));
      findings.push(...findingsIn(set.family, entries ?? new Map(), wanted));
    }
    return { findings, members };
  }

  #plan(seen: SeenHostTable | undefined, wanted: HostMembers): NetlinkRequest[] {
    const sets = setsOf(this.#rules);
    const isSound =
      seen !== undefined &&
      hasRules(seen, hostRulesOf(this.#rules)) &&
      seen.otherCount === 0 &&
      sets.every(({ family }) => seen.sets.get(family) !== undefined);
    if (isSound) return sets.flatMap((set) => patchSet(set, seen.sets.get(set.family) ?? new Map(), wanted));
    const place = { family: "inet", table: HOST_TABLE } as const;
    const chain = { ...place, chain: HOST_CHAIN };
    return [
      ...(seen === undefined ? [] : [deleteTable(place)]),
      newTable(place),
      ...sets.map((set, index) => newSet(set, { id: index + 1, comment: HOST_SET_COMMENT })),
      ...sets.flatMap((set) => addElements(set, remaining(set.family, seen?.sets.get(set.family), wanted))),
      newChain(chain, encodeBase(HOST_HOOK)),
      ...hostRulesOf(this.#rules).map((rule) => newRule(chain, rule)),
    ];
  }
}

function askIn(netns: Netns): Ask {
  return (requests, enoughBytes) => ask(netns.fd, requests, { enoughBytes });
}

function setFinding({ set, family }: SetPlace, isThere: boolean): HostFinding {
  return isThere
    ? { kind: "wrong-set", family, detail: `set ${set} was made by something else` }
    : { kind: "missing-set", family, detail: `set ${set} is not there` };
}

/** An entry's comment is changed by making the entry anew, in the same step. */
function patchSet(set: SetPlace, entries: SetEntries, wanted: HostMembers): NetlinkRequest[] {
  const found = findingsIn(set.family, entries, wanted);
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
function remaining(family: Family, entries: SetEntries = new Map(), wanted: HostMembers): SetEntries {
  const kept = [...entries].filter(([, comment]) => !wanted.isStale(comment));
  return new Map([...kept, ...wanted.owners[family]]);
}
