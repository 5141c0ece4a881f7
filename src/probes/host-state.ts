// SPDX-License-Identifier: Apache-2.0
// The host's sets and rules against what they should be: looked at without a process, written, removed.
import { closeSync } from "node:fs";
import { NativeError, socketInNetns } from "../linux/native.ts";
import type { Netns } from "../linux/netns.ts";
import type { Family } from "../netfilter/family.ts";
import { findNativeTables, nativeTableName, removeNativeTables } from "../netfilter/native-tables.ts";
import { type RedirectBackend, toolsOf, writesIpv6 } from "../netfilter/variant.ts";
import type { VariantTools } from "../netfilter/variant-tools.ts";
import { lookAtHost } from "./host-look.ts";
import { HostRules, type WantedHostRules } from "./host-rules.ts";
import { HostTools } from "./host-tools.ts";
import type { ProbeMatch } from "./kubelet-match.ts";
import { canonicalAddress } from "./probe-address.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import type { WantedMembers } from "./probe-members.ts";
import { isUsableSet, PROBE_SETS, planSet } from "./probe-set.ts";
import { ProbesError } from "./probes-error.ts";

export interface HostStateOptions {
  /** Path of the namespace. */
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

/** How the host differs, and what changes it. */
export interface HostObservation {
  readonly drift: readonly ProbeDrift[];
  readonly skippedFamilies: readonly SkippedProbeFamily[];
  readonly setLines: readonly string[];
  /** Families whose rules are to be written; sets that rules name come first. */
  readonly ruleFamilies: readonly Family[];
  /** Entries in the sets. */
  readonly entryCount: number;
}

const ALL_FAMILIES: readonly Family[] = [4, 6];

/** One host. Not to be used by two callers at a time. */
export class HostState {
  readonly tools: HostTools;
  readonly rules: HostRules;
  readonly #options: HostStateOptions;
  /** Key of the match that was written last. */
  #writtenMatch: string | undefined;

  /** @throws RangeError for a probe address that is none */
  constructor(options: HostStateOptions) {
    const { backend, probeSnatV4, probeSnatV6 } = options;
    this.#options = options;
    this.rules = new HostRules(backend, {
      4: canonicalAddress(probeSnatV4),
      6: canonicalAddress(probeSnatV6),
    });
    this.tools = new HostTools(backend.runner);
  }

  /**
   * Compares what is there with what should be; writes nothing.
   * @throws {ProbesError} FOREIGN_SET, RULE_REFUSED; what the engine and netlink throw
   */
  async observe(netns: Netns, wanted: WantedHost): Promise<HostObservation> {
    const { families, skippedFamilies } = this.#families(netns);
    const { members, match } = wanted;
    const { sets, numbers } = await lookAtHost(netns.fd, families);
    const plans = families.map((family) => {
      const set = sets.get(family);
      if (!isUsableSet(set)) throw foreignSet(family, set?.type ?? "");
      return planSet(set, { owners: members.owners[family], isStale: members.isStale }, family);
    });
    // a rule goes before the set it names: without all sets there are not all rules
    const drift = !wanted.rules
      ? []
      : families.every((family) => sets.has(family))
        ? await this.#observeRules(netns, { families, match, setNumbers: numbers })
        : families.map((family) => missingRules(family));
    return {
      drift: [...plans.flatMap((plan) => plan.drift), ...drift],
      skippedFamilies,
      setLines: plans.flatMap(({ lines }) => lines),
      ruleFamilies: drift.length > 0 ? families : [],
      entryCount: families.reduce((sum, family) => sum + (sets.get(family)?.entries.size ?? 0), 0),
    };
  }

  /** Writes what {@link observe} planned: sets first, in one run, because rules name them. @throws as {@link observe}; {ToolError} */
  async write(netns: Netns, plan: HostObservation, match: ProbeMatch): Promise<void> {
    const { setLines, ruleFamilies: families } = plan;
    if (setLines.length > 0) await this.tools.restoreSets(netns, setLines);
    if (families.length === 0) return;
    const { numbers } = await lookAtHost(netns.fd, families);
    await this.rules.write(netns, { families, match, setNumbers: numbers });
    this.#writtenMatch = match.key;
  }

  /**
   * Removes what an earlier agent left: our chain in the variant that is not in use, istio-cni's own nft tables.
   * @throws as {@link observe}
   */
  async removeLeftovers(netns: Netns): Promise<ProbeDrift[]> {
    const { variant, installed } = this.#options.backend;
    const removed: ProbeDrift[] = [];
    for (const tools of Object.values(installed))
      if (tools.variant !== variant) removed.push(...(await this.#removeRules(netns, tools)));
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
    const tools = toolsOf(this.#options.backend);
    const ours = tools === undefined ? [] : await this.#removeRules(netns, tools);
    const removed = [...ours, ...(await this.removeLeftovers(netns))];
    const names = await this.setNames(netns);
    await this.tools.destroySets(netns, names);
    this.#writtenMatch = undefined;
    return removed.length > 0 || names.length > 0;
  }

  /** Our sets that exist. A rule that names a set keeps it from being destroyed: without sets there is no such rule. */
  async setNames(netns: Netns): Promise<string[]> {
    const { sets } = await lookAtHost(netns.fd, ALL_FAMILIES);
    return [...sets.keys()].map((family) => PROBE_SETS[family]);
  }

  async #observeRules(netns: Netns, wanted: WantedHostRules): Promise<ProbeDrift[]> {
    const { families, match } = wanted;
    const drift = await this.rules.observe(netns, wanted);
    // only the cgroup of today is certain to be the one that the kernel resolved
    const isStale = match.kind === "cgroup" && this.#writtenMatch !== match.key;
    if (!isStale || drift.length > 0) return drift;
    const detail = `the rule may name an earlier cgroup (${match.key})`;
    return families.map((family) => ({ kind: "stale-cgroup", family, detail }));
  }

  async #removeRules(netns: Netns, tools: VariantTools): Promise<ProbeDrift[]> {
    const families = await this.rules.remove(netns, tools);
    const detail = `iptables-${tools.variant} held our chain`;
    return families.map((family) => ({ kind: "leftover", family, detail }));
  }

  #families(netns: Netns): { families: Family[]; skippedFamilies: SkippedProbeFamily[] } {
    const { ipv6, backend } = this.#options;
    const reason = !ipv6
      ? "AMBIENT_IPV6 is false"
      : !writesIpv6(backend)
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

function missingRules(family: Family): ProbeDrift {
  return { kind: "missing-chain", family, detail: `no rule can name the set ${PROBE_SETS[family]} yet` };
}

function foreignSet(family: Family, type: string): ProbesError {
  const name = PROBE_SETS[family];
  return new ProbesError(
    "FOREIGN_SET",
    `Cannot use the host's ipset "${name}": it is of type ${type}, so something else made it; ` +
      `remove what names it, then: ipset destroy ${name}`,
  );
}
