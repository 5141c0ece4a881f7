// SPDX-License-Identifier: Apache-2.0
// The host's sets and rules against what they should be: looked at without a process where that is known already, written,
// removed.
import { closeSync } from "node:fs";
import { dirname, join } from "node:path";
import { NativeError, socketInNetns } from "../linux/native.ts";
import type { Netns } from "../linux/netns.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import { findNativeTables, nativeTableName, removeNativeTables } from "../netfilter/native-tables.ts";
import { type RedirectBackend, readLegacyTableNames } from "../netfilter/variant.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { type HostLook, lookAtHost } from "./host-look.ts";
import { HostTools } from "./host-tools.ts";
import type { ProbeMatch } from "./kubelet-match.ts";
import { canonicalAddress } from "./probe-address.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import type { WantedMembers } from "./probe-members.ts";
import {
  compareProbeRules,
  PROBE_TABLE,
  planProbeRemoval,
  planProbeRules,
  probeRule,
} from "./probe-rules.ts";
import { isUsableSet, PROBE_SETS, planSet } from "./probe-set.ts";
import { ProbesError } from "./probes-error.ts";

export interface HostStateOptions {
  /** Path of the namespace; its sibling folder `net` (as in /proc/PID) tells which x_tables exist, where there is one. */
  readonly hostNetnsPath: string;
  readonly backend: RedirectBackend;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  /** AMBIENT_IPV6: false leaves IPv6 alone. */
  readonly ipv6: boolean;
}

/** What should be there. */
export interface WantedHost {
  readonly members: WantedMembers;
  readonly match: ProbeMatch;
  /** False: only the sets are looked at. */
  readonly rules: boolean;
}

/** A family that the host cannot have. */
export interface SkippedProbeFamily {
  readonly family: Family;
  readonly reason: string;
}

/** How the host differs, and the texts that change it. */
export interface HostObservation {
  readonly drift: readonly ProbeDrift[];
  readonly skippedFamilies: readonly SkippedProbeFamily[];
  readonly setLines: readonly string[];
  readonly ruleTexts: readonly { readonly family: Family; readonly text: string }[];
  /** Entries in the sets. */
  readonly entryCount: number;
}

const ALL_FAMILIES: readonly Family[] = [4, 6];
const MAX_KNOWN_HASHES = 64;

/** One host. Not to be used by two callers at a time. */
export class HostState {
  readonly tools: HostTools;
  readonly #options: HostStateOptions;
  readonly #snat: Readonly<Record<Family, string>>;
  /** Hashes that iptables-save has shown to be of the rules in the value. */
  readonly #good = new Map<string, string>();
  /** Key of the match that was written last, by family. */
  readonly #writtenMatch = new Map<Family, string>();

  /** @throws RangeError for a probe address that is none */
  constructor(options: HostStateOptions) {
    this.#options = options;
    this.#snat = { 4: canonicalAddress(options.probeSnatV4), 6: canonicalAddress(options.probeSnatV6) };
    this.tools = new HostTools(options.backend.runner);
  }

  /**
   * Compares what is there with what should be; writes nothing.
   * @throws {ProbesError} FOREIGN_SET, UNREADABLE_TABLE; what the tools and netlink throw
   */
  async observe(netns: Netns, wanted: WantedHost): Promise<HostObservation> {
    const { families, skippedFamilies } = this.#families(netns);
    const rules = wanted.rules ? this.#options.backend.variant : undefined;
    const look = await lookAtHost(netns.fd, { families, rules });
    // a rule goes before the set it names, and with the set the number that stands for it in the rule's bytes
    if (families.some((family) => look.sets.get(family) === undefined)) this.#good.clear();
    const observed = await allDone(
      families.map((family) => this.#observeFamily(netns, { family, look, wanted })),
    );
    return {
      drift: observed.flatMap(({ drift }) => drift),
      skippedFamilies,
      setLines: observed.flatMap(({ setLines }) => setLines),
      ruleTexts: observed.flatMap(({ family, text }) => (text === undefined ? [] : [{ family, text }])),
      entryCount: families.reduce((sum, family) => sum + (look.sets.get(family)?.entries.size ?? 0), 0),
    };
  }

  /** Writes what {@link observe} planned: sets first, in one run, because rules name them. @throws {ToolError} */
  async write(netns: Netns, plan: HostObservation, match: ProbeMatch): Promise<void> {
    if (plan.setLines.length > 0) await this.tools.restoreSets(netns, plan.setLines);
    const { tools } = this.#options.backend;
    const { cgroupNsPath } = match;
    for (const { family, text } of plan.ruleTexts) {
      await this.tools.restoreRules(netns, { tools, family, text, cgroupNsPath });
      this.#writtenMatch.set(family, match.key);
    }
  }

  /**
   * Removes what an earlier agent left: our chain in the variant that is not in use, istio-cni's own nft tables.
   * @throws as {@link observe}
   */
  async removeLeftovers(netns: Netns): Promise<ProbeDrift[]> {
    const { other } = this.#options.backend;
    const removed = other === undefined ? [] : await this.#removeRules(netns, other);
    const tables = await findNativeTables(netns.fd);
    if (tables.length === 0) return removed;
    await removeNativeTables(netns.fd, tables);
    const detail = `${tables.map(nativeTableName).join(", ")} of an istio-cni with NATIVE_NFTABLES was there`;
    return [...removed, { kind: "leftover", family: 4, detail }];
  }

  /**
   * Removes everything of ours, in both families and both variants, and istio-cni's tables; absence is success.
   * @returns whether there was anything @throws as {@link observe}
   */
  async remove(netns: Netns): Promise<boolean> {
    const { tools } = this.#options.backend;
    const removed = [...(await this.#removeRules(netns, tools)), ...(await this.removeLeftovers(netns))];
    const names = await this.setNames(netns);
    await this.tools.destroySets(netns, names);
    this.#good.clear();
    this.#writtenMatch.clear();
    return removed.length > 0 || names.length > 0;
  }

  /** Our sets that exist. A rule that names a set keeps it from being destroyed: without sets there is no such rule. */
  async setNames(netns: Netns): Promise<string[]> {
    const { sets } = await lookAtHost(netns.fd, { families: ALL_FAMILIES, rules: undefined });
    return ALL_FAMILIES.filter((family) => sets.get(family) !== undefined).map(
      (family) => PROBE_SETS[family],
    );
  }

  async #observeFamily(
    netns: Netns,
    { family, look, wanted }: { family: Family; look: HostLook; wanted: WantedHost },
  ): Promise<{ family: Family; drift: ProbeDrift[]; setLines: readonly string[]; text: string | undefined }> {
    const { members, match } = wanted;
    const set = look.sets.get(family);
    if (!isUsableSet(set)) throw foreignSet(family, set?.type ?? "");
    const sets = planSet(set, { owners: members.owners[family], isStale: members.isStale }, family);
    if (!wanted.rules) return { family, drift: [...sets.drift], setLines: sets.lines, text: undefined };
    const rules = await this.#observeRules(netns, { family, hash: look.hashes.get(family), match });
    return { family, drift: [...sets.drift, ...rules.drift], setLines: sets.lines, text: rules.text };
  }

  async #observeRules(
    netns: Netns,
    { family, hash, match }: { family: Family; hash: string | undefined; match: ProbeMatch },
  ): Promise<{ drift: ProbeDrift[]; text: string | undefined }> {
    const { tools } = this.#options.backend;
    const rule = probeRule(family, { match: match.args, snat: this.#snat[family] });
    // only the cgroup of today is certain to be the one that the kernel resolved
    const isStale = match.kind === "cgroup" && this.#writtenMatch.get(family) !== match.key;
    const ruleKey = rule.join(" ");
    if (!isStale && hash !== undefined && this.#good.get(`${family} ${hash}`) === ruleKey) {
      return { drift: [], text: undefined };
    }
    const state = await this.tools.readRules(netns, { tools, family });
    const drift = compareProbeRules(state, { family, rule });
    if (isStale && drift.length === 0) {
      drift.push({
        kind: "stale-cgroup",
        family,
        detail: `the rule may name an earlier cgroup (${match.key})`,
      });
    }
    if (drift.length > 0) return { drift, text: planProbeRules(state, { rule, rewrite: isStale }) };
    if (hash !== undefined) await this.#learn(netns, { family, hash, ruleKey });
    return { drift, text: undefined };
  }

  /** The hash must be the same before and after iptables-save, or it may be of other rules than those shown. */
  async #learn(
    netns: Netns,
    { family, hash, ruleKey }: { family: Family; hash: string; ruleKey: string },
  ): Promise<void> {
    const { hashes } = await lookAtHost(netns.fd, {
      families: [family],
      rules: this.#options.backend.variant,
    });
    if (hashes.get(family) !== hash) return;
    if (this.#good.size >= MAX_KNOWN_HASHES) this.#good.clear();
    this.#good.set(`${family} ${hash}`, ruleKey);
  }

  async #removeRules(netns: Netns, tools: VariantTools): Promise<ProbeDrift[]> {
    const removed: ProbeDrift[] = [];
    for (const family of await this.#familiesWithNat(netns, tools)) {
      const state = await this.tools.readRules(netns, { tools, family });
      const text = planProbeRemoval(state);
      if (text === undefined) continue;
      await this.tools.restoreRules(netns, { tools, family, text });
      const detail = `iptables-${tools.variant} held our chain`;
      removed.push({ kind: "leftover", family, detail });
    }
    return removed;
  }

  /** Families whose nat table may hold something of ours. Asking iptables-legacy for a table would create it. */
  async #familiesWithNat(netns: Netns, tools: VariantTools): Promise<Family[]> {
    const families = ALL_FAMILIES.filter((family) => tools[family] !== undefined);
    if (tools.variant === "nft") {
      const { hashes } = await lookAtHost(netns.fd, { families, rules: "nft" }).catch(() => ({
        hashes: undefined,
      }));
      return families.filter((family) => hashes?.has(family));
    }
    const procNetDir = join(dirname(dirname(this.#options.hostNetnsPath)), "net");
    const tables = await Promise.all(families.map((family) => readLegacyTableNames(procNetDir, family)));
    return families.filter((_, index) => tables[index]?.includes(PROBE_TABLE));
  }

  #families(netns: Netns): { families: Family[]; skippedFamilies: SkippedProbeFamily[] } {
    const { ipv6, backend } = this.#options;
    const reason = !ipv6
      ? "AMBIENT_IPV6 is false"
      : backend.tools[6] === undefined
        ? `ip6tables of variant "${backend.variant}" is not in PATH`
        : supportsIpv6(netns)
          ? undefined
          : "the host's kernel has no IPv6";
    if (reason === undefined) return { families: [4, 6], skippedFamilies: [] };
    return { families: [4], skippedFamilies: [{ family: 6, reason }] };
  }
}

function supportsIpv6(netns: Netns): boolean {
  try {
    closeSync(socketInNetns(netns.fd, { family: 6, type: "dgram" }));
    return true;
  } catch (error) {
    if (error instanceof NativeError && error.code === "EAFNOSUPPORT") return false;
    throw error;
  }
}

function foreignSet(family: Family, type: string): ProbesError {
  const name = PROBE_SETS[family];
  return new ProbesError(
    "FOREIGN_SET",
    `Cannot use the host's ipset "${name}": it is of type ${type}, so something else made it; ` +
      `remove what names it, then: ipset destroy ${name}`,
  );
}
