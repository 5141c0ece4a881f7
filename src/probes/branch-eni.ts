// SPDX-License-Identifier: Apache-2.0
// Pods with a network card of their own at AWS (a branch ENI: security groups for pods): the host's packets to them leave over
// the VPC, which does not carry the probes' source address. Two policy rules for each pod keep them on the node.
import { supportsIpv6 } from "../linux/host-netns.ts";
import {
  addPolicyRules,
  deletePolicyRules,
  describeRule,
  type HostRoute,
  type PolicyRule,
  readHostRoutes,
  readPolicyRules,
} from "../linux/netlink/policy-rules.ts";
import type { Netns } from "../linux/netns.ts";
import type { NetnsAt } from "../linux/netns-visit.ts";
import type { Family } from "../netfilter/family.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import type { HostMembers, SetEntries } from "./set-members.ts";

/** In the rules that are ours: how an agent knows those of one before it. Source: linux/rtnetlink.h, no number of anybody's. */
export const BRANCH_PROTOCOL = 111;
/** Where the VPC CNI has its own rules for the addresses of pods. Source: istio/istio cni/pkg/nodeagent/brancheni_linux.go */
const TO_POD_PRIORITY = 512;
const LOCAL_TABLE = 255;
/** Tables that every host has: default, main, local. */
const commonTables: ReadonlySet<number> = new Set([0, 253, 254, LOCAL_TABLE]);

/** What the look at a host is given. */
export interface BranchLook {
  readonly families: readonly Family[];
  /** Through which the rules are looked at. */
  readonly at: NetnsAt;
  /** False: no pod is to have rules. */
  readonly isOn: boolean;
  readonly members: HostMembers;
  /** Owners of the addresses in the sets: an agent before this one knew of pods that this one may not know yet. */
  readonly entries: () => Promise<ReadonlyMap<Family, SetEntries>>;
  /** Whether the host was made ready for such pods; asked only where some seem to be. */
  readonly isPrepared: () => Promise<boolean>;
}

/** How the host's rules differ. */
export interface BranchDrift {
  readonly drift: readonly ProbeDrift[];
  /** Writes what differed. @throws NetlinkError, NativeError */
  readonly write: () => Promise<void>;
}

/** What the kernel has. */
export interface SeenPolicy {
  readonly rules: readonly PolicyRule[];
  readonly routes: readonly HostRoute[];
}

/**
 * The rules that pods of a branch ENI need, the way back before the way there. Such a pod has a host route in the table of the
 * VPC CNI's `iif` rule for the pod's end of the wire; others have theirs in the main table. Pure.
 *
 * - `to POD lookup TABLE`: there over the wire, past the rules that lead to the VPC.
 * - `iif WIRE lookup local`, before the VPC CNI's own: what the pod answers ends here, and does not leave over the VPC.
 *
 * Source: istio/istio cni/pkg/nodeagent/brancheni_linux.go, detectBranchENI and addBranchENIRules; aws/amazon-vpc-cni-k8s
 * cmd/routed-eni-cni-plugin/driver/driver.go, SetupBranchENIPodNetwork
 */
export function branchRules(addresses: HostMembers["owners"], { rules, routes }: SeenPolicy): PolicyRule[] {
  const back = new Map<string, PolicyRule>();
  const there: PolicyRule[] = [];
  for (const family of [4, 6] as const)
    for (const to of addresses[family].keys()) {
      const found = wireOf(to, { family, rules, routes });
      if (found === undefined) continue;
      const { iif, table, priority } = found;
      const made = { family, protocol: BRANCH_PROTOCOL };
      const answer = { ...made, iif, table: LOCAL_TABLE, priority: Math.max(0, priority - 1) };
      back.set(keyOf(answer), answer);
      there.push({ ...made, to, table, priority: TO_POD_PRIORITY });
    }
  return [...back.values(), ...there];
}

function wireOf(
  address: string,
  { family, rules, routes }: SeenPolicy & { readonly family: Family },
): PolicyRule | undefined {
  for (const route of routes) {
    if (route.family !== family || route.address !== address) continue;
    const isItsRule = (rule: PolicyRule) =>
      isWireRule(rule) && rule.family === family && rule.iif === route.device && rule.table === route.table;
    const found = rules.find(isItsRule);
    if (found !== undefined) return found;
  }
  return undefined;
}

function isWireRule({ iif, table, to }: PolicyRule): boolean {
  return iif !== undefined && to === undefined && !commonTables.has(table);
}

/** The same for rules that differ in nothing but their maker. */
function keyOf({ family, priority, table, to = "", iif = "" }: PolicyRule): string {
  return `${family} ${priority} ${table} ${to} ${iif}`;
}

/** One host. Not to be used by two callers at a time. */
export class BranchEni {
  /** Rules that were wanted at some time and may be there: those that istio-cni made have no mark. */
  readonly #known = new Set<string>();

  /** Compares what is there with what should be; writes nothing. @throws NetlinkError, NativeError */
  async observe(netns: Netns, look: BranchLook): Promise<BranchDrift> {
    const { families, at } = look;
    const rules = await readPolicyRules(at, families);
    const tables = new Set(rules.filter(isWireRule).map(({ table }) => table));
    const there = new Set(rules.map(keyOf));
    for (const key of this.#known) if (!there.has(key)) this.#known.delete(key);
    const ours = rules.filter((rule) => this.#isOurs(rule));
    if (tables.size === 0 && ours.length === 0) return { drift: [], write: async () => {} };
    const addresses = look.isOn ? await addressesOf(look, ours) : { 4: new Map(), 6: new Map() };
    const isAnybodyThere = addresses[4].size + addresses[6].size > 0;
    const routes = isAnybodyThere ? await readHostRoutes(netns.fd, families, tables) : [];
    const wanted = branchRules(addresses, { rules, routes });
    const missing = wanted.filter((rule) => !there.has(keyOf(rule)));
    const kept = new Set(wanted.map(keyOf));
    // the way there goes before the way back does
    const stale = ours.filter((rule) => !kept.has(keyOf(rule))).sort((one, other) => rank(one) - rank(other));
    for (const key of kept) if (there.has(key)) this.#known.add(key);
    const lacking = missing.length > 0 && (await look.isPrepared()) ? missing : [];
    return {
      drift: [
        ...lacking.map((rule) => driftOf("missing-policy-rule", rule, addresses)),
        ...stale.map((rule) => driftOf("stale-policy-rule", rule, addresses)),
      ],
      write: async () => {
        await deletePolicyRules(netns.fd, stale);
        await addPolicyRules(netns.fd, lacking);
      },
    };
  }

  /** Takes away all of it; absence is success. @returns whether there was anything @throws NetlinkError, NativeError */
  async remove(netns: Netns): Promise<boolean> {
    const ours = (await readAll(netns)).filter((rule) => this.#isOurs(rule));
    ours.sort((one, other) => rank(one) - rank(other));
    await deletePolicyRules(netns.fd, ours);
    return ours.length > 0;
  }

  #isOurs(rule: PolicyRule): boolean {
    return rule.protocol === BRANCH_PROTOCOL || this.#known.has(keyOf(rule));
  }
}

/** Rules of ours, as `ip rule` prints them. @throws NetlinkError, NativeError */
export async function findBranchRules(netns: Netns): Promise<string[]> {
  const ours = (await readAll(netns)).filter(({ protocol }) => protocol === BRANCH_PROTOCOL);
  return ours.map((rule) => `ip rule "${describeRule(rule)}"`);
}

function readAll(netns: Netns): Promise<PolicyRule[]> {
  return readPolicyRules(netns.fd, supportsIpv6(netns) ? [4, 6] : [4]);
}

function rank({ to }: PolicyRule): number {
  return to === undefined ? 1 : 0;
}

/** Of the pods, and of those that rules of ours and the sets name and nobody has said are gone. */
async function addressesOf(
  { members, entries }: BranchLook,
  ours: readonly PolicyRule[],
): Promise<Record<Family, Map<string, string>>> {
  const addresses = { 4: new Map(members.owners[4]), 6: new Map(members.owners[6]) };
  const others = ours.filter(({ family, to }) => to !== undefined && !addresses[family].has(to));
  if (others.length === 0) return addresses;
  const inSets = await entries();
  for (const { family, to = "" } of others) {
    const uid = inSets.get(family)?.get(to);
    if (uid !== undefined && !members.isStale(uid)) addresses[family].set(to, uid);
  }
  return addresses;
}

function driftOf(
  kind: "missing-policy-rule" | "stale-policy-rule",
  rule: PolicyRule,
  addresses: HostMembers["owners"],
): ProbeDrift {
  const { family, to = "" } = rule;
  const uid = addresses[family].get(to);
  const text = `ip rule "${describeRule(rule)}"`;
  const detail = kind === "missing-policy-rule" ? `${text} is not there` : `${text} is of no pod any more`;
  return { kind, family, detail, ...(uid === undefined ? {} : { uid }) };
}
