// SPDX-License-Identifier: Apache-2.0
// The host's sets and rules against what they should be, in the form that is in use; what is left of the other is carried over and removed.
import { supportsIpv6 } from "../linux/host-netns.ts";
import type { Netns } from "../linux/netns.ts";
import { NetnsVisit } from "../linux/netns-visit.ts";
import type { Logger } from "../log/logger.ts";
import { allDone } from "../loop/all-done.ts";
import type { Family } from "../netfilter/family.ts";
import { type RedirectBackend, writesIpv6 } from "../netfilter/variant.ts";
import { type BranchDrift, BranchEni, type BranchLook } from "./branch-eni.ts";
import type { HostForm, SeenHost, WantedHost } from "./host-form.ts";
import { HostSysctl } from "./host-sysctl.ts";
import { IptablesHost } from "./iptables-host.ts";
import { NativeProbes } from "./native-probes.ts";
import { canonicalAddress, isUid } from "./probe-address.ts";
import { describeDrift, type ProbeDrift } from "./probe-drift.ts";
import type { HostMembers } from "./set-members.ts";

export interface HostStateOptions {
  readonly backend: RedirectBackend;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  /** AMBIENT_IPV6: false leaves IPv6 alone. */
  readonly ipv6: boolean;
  /** AMBIENT_ENABLE_AWS_BRANCH_ENI_PROBE; default true. False takes away what was written for it. */
  readonly branchEniProbes?: boolean;
}

/** How the host differs, and what changes it. */
export interface HostObservation extends SeenHost {
  /** Those that the host can have. */
  readonly families: readonly Family[];
}

const ALL_FAMILIES: readonly Family[] = [4, 6];

/** One host. Not to be used by two callers at a time. */
export class HostState {
  readonly #options: HostStateOptions;
  readonly #iptables: IptablesHost;
  readonly #native: NativeProbes;
  readonly #branchEni = new BranchEni();
  readonly #hostSysctl: HostSysctl;
  /** The kernel has IPv6, which it can get (its module) and never loses. */
  #hasIpv6 = false;
  /** Of leftovers, which were removed, and of a failure to do so. */
  #isCleared = false;
  #isSaid = false;

  /** @throws RangeError for a probe address that is none */
  constructor(options: HostStateOptions) {
    const { backend, probeSnatV4, probeSnatV6 } = options;
    const snat = { 4: canonicalAddress(probeSnatV4), 6: canonicalAddress(probeSnatV6) };
    this.#options = options;
    this.#iptables = new IptablesHost(backend, snat);
    this.#native = new NativeProbes(snat);
    this.#hostSysctl = new HostSysctl(backend.runner);
  }

  get counts(): HostForm["counts"] {
    return this.#form.counts;
  }

  get unannounced(): HostForm["unannounced"] {
    return this.#form.unannounced;
  }

  /** Compares what is there with what should be; writes nothing. @throws as {@link HostForm.observe} */
  async observe(netns: Netns, wanted: Omit<WantedHost, "families" | "at">): Promise<HostObservation> {
    const families = this.#families(netns);
    const visit = new NetnsVisit({ fd: netns.fd });
    const [seen, branch] = await allDone([
      this.#form.observe(netns, { ...wanted, families, at: visit }),
      this.#observeBranchEni(netns, { families, members: wanted.members, at: visit }),
    ]);
    const write = async () => {
      if (seen.drift.length > 0) await seen.write();
      if (branch.drift.length > 0) await branch.write();
    };
    return { ...seen, drift: [...seen.drift, ...branch.drift], write, families };
  }

  async #observeBranchEni(
    netns: Netns,
    { families, members, at }: Pick<BranchLook, "families" | "members" | "at">,
  ): Promise<BranchDrift> {
    return await this.#branchEni.observe(netns, {
      families,
      at,
      isOn: this.#options.branchEniProbes !== false,
      members,
      entries: () => this.#form.entries(netns, families),
      // Source: AWS, "Configure the Amazon VPC CNI plugin for Kubernetes for security groups for Pods": such nodes have it off
      isPrepared: async () => (await this.#hostSysctl.read(netns, "ipv4/tcp_early_demux")) === "0",
    });
  }

  /**
   * With the entries of the form that is not in use: an agent that used it knew of these pods, and their probes pass until this one
   * knows of them too. Entries that are out of date stay behind. @throws as {@link HostForm.observe}
   */
  async carriedOver(netns: Netns, members: HostMembers): Promise<HostMembers> {
    const earlier = await this.#otherForm.entries(netns, ALL_FAMILIES);
    const owners = (family: Family) => {
      const entries = [...(earlier.get(family) ?? [])];
      const kept = entries.filter(([, comment]) => isUid(comment) && !members.isStale(comment));
      return new Map([...kept, ...members.owners[family]]);
    };
    return { ...members, owners: { 4: owners(4), 6: owners(6) } };
  }

  /**
   * Removes what an earlier agent left that kept its rules in another way: once, as the variant is chosen for the boot, and last, for until
   * ours stands the earlier agent's rule does the work. What cannot be removed is said once, and tried again.
   */
  async clearLeftovers(netns: Netns, log: Logger): Promise<void> {
    if (this.#isCleared) return;
    try {
      const removed = await this.#removeLeftovers(netns);
      this.#isCleared = true;
      if (removed.length > 0)
        log.info({ drift: describeDrift(removed) }, "removed what an earlier agent left for probes");
    } catch (error) {
      // what is left there is one rule too many; probes pass
      if (!this.#isSaid)
        log.warn({ err: error }, "cannot remove what an earlier agent left for probes; trying again");
      this.#isSaid = true;
    }
  }

  async #removeLeftovers(netns: Netns): Promise<ProbeDrift[]> {
    const { variant } = this.#options.backend;
    if (variant === "native") return await this.#iptables.remove(netns);
    const other = await this.#iptables.removeRules(netns, variant === "nft" ? "legacy" : "nft");
    return [...other, ...(await this.#native.remove(netns))];
  }

  /**
   * Removes everything of ours, in both families and all forms; absence is success.
   * @returns whether there was anything @throws as {@link HostForm.observe}
   */
  async remove(netns: Netns): Promise<boolean> {
    const removed = [...(await this.#iptables.remove(netns)), ...(await this.#native.remove(netns))];
    const hadRules = await this.#branchEni.remove(netns);
    return removed.length > 0 || hadRules;
  }

  get #form(): HostForm {
    return this.#options.backend.variant === "native" ? this.#native : this.#iptables;
  }

  get #otherForm(): HostForm {
    return this.#options.backend.variant === "native" ? this.#iptables : this.#native;
  }

  #families(netns: Netns): readonly Family[] {
    const { ipv6, backend } = this.#options;
    this.#hasIpv6 ||= supportsIpv6(netns);
    return ipv6 && writesIpv6(backend) && this.#hasIpv6 ? ALL_FAMILIES : [4];
  }
}
