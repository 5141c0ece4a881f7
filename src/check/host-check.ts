// SPDX-License-Identifier: Apache-2.0
// The host's side of kubelet probes as the kernel has it: chain, jump and the members of both sets.
import { closeSync } from "node:fs";
import { sameAddress } from "../linux/address.ts";
import { NativeError, socketInNetns } from "../linux/native.ts";
import { Netns } from "../linux/netns.ts";
import { silentLogger } from "../log/logger.ts";
import type { Family } from "../netfilter/family.ts";
import type { RedirectBackend } from "../netfilter/variant.ts";
import { lookAtHost } from "../probes/host-look.ts";
import { HostTools } from "../probes/host-tools.ts";
import { KubeletMatch, MATCH_ANY } from "../probes/kubelet-match.ts";
import { canonicalAddress, familyOf } from "../probes/probe-address.ts";
import { compareProbeRules, probeRule } from "../probes/probe-rules.ts";
import { PROBE_SETS, type SeenSet } from "../probes/probe-set.ts";
import { type Fault, fault } from "./fault.ts";

/** A pod whose addresses the sets should, or may, hold. */
export interface HostMember {
  readonly name: string;
  readonly uid: string;
  readonly addresses: readonly string[];
  /** False: an entry of it is no fault, and none is neither. */
  readonly required: boolean;
}

/** What the host should have. */
export interface HostCheckOptions {
  readonly backend: RedirectBackend;
  readonly hostNetnsPath: string;
  readonly procRoot: string;
  readonly ipv6: boolean;
  readonly probeSnatV4: string;
  readonly probeSnatV6: string;
  readonly probeMatch: "any" | "kubelet";
  /** Every pod of the mesh on this node; `undefined`: not known, members are not judged. */
  readonly members: readonly HostMember[] | undefined;
}

/** Every mismatch of the host. @throws Error when the kernel cannot be asked */
export async function checkHost(options: HostCheckOptions): Promise<Fault[]> {
  using host = Netns.open(options.hostNetnsPath);
  const families = hostFamilies(options, host);
  const [{ sets }, ruleFaults] = await Promise.all([
    lookAtHost(host.fd, { families, rules: undefined }),
    checkRules(options, { host, families }),
  ]);
  const setFaults = families.flatMap((family) =>
    checkSet(options.members, { family, set: sets.get(family) }),
  );
  return [...ruleFaults, ...setFaults];
}

function hostFamilies({ ipv6, backend }: HostCheckOptions, host: Netns): Family[] {
  return ipv6 && backend.tools[6] !== undefined && hasIpv6(host) ? [4, 6] : [4];
}

function hasIpv6(host: Netns): boolean {
  try {
    closeSync(socketInNetns(host.fd, { family: 6, type: "dgram" }));
    return true;
  } catch (error) {
    if (error instanceof NativeError && error.code === "EAFNOSUPPORT") return false;
    throw error;
  }
}

async function checkRules(
  options: HostCheckOptions,
  { host, families }: { host: Netns; families: readonly Family[] },
): Promise<Fault[]> {
  const { backend, probeSnatV4, probeSnatV6 } = options;
  const tools = new HostTools(backend.runner);
  const match = await matchOf(options, host);
  const drifts = await Promise.all(
    families.map(async (family) => {
      const snat = canonicalAddress(family === 4 ? probeSnatV4 : probeSnatV6);
      const state = await tools.readRules(host, { tools: backend.tools, family });
      return compareProbeRules(state, { family, rule: probeRule(family, { match, snat }) });
    }),
  );
  return drifts
    .flat()
    .map(({ family, detail }) => fault("host-chain", null, `IPv${family} nat of the host: ${detail}`));
}

async function matchOf(
  { probeMatch, procRoot, backend }: HostCheckOptions,
  host: Netns,
): Promise<readonly string[]> {
  if (probeMatch === "any") return MATCH_ANY.args;
  const kubelet = new KubeletMatch({ procRoot, runner: backend.runner, log: silentLogger });
  return (await kubelet.current(host.key)).args;
}

function checkSet(
  members: readonly HostMember[] | undefined,
  { family, set }: { family: Family; set: SeenSet | undefined },
): Fault[] {
  const name = PROBE_SETS[family];
  if (set === undefined) return [fault("missing-set", null, `the host has no ipset ${name}`)];
  if (members === undefined) return [];
  const entries = [...set.entries];
  const faults: Fault[] = [];
  for (const member of members.filter(({ required }) => required)) {
    for (const address of member.addresses.filter((each) => familyOf(each) === family)) {
      const entry = entries.find(([held]) => sameAddress(held, address));
      if (entry === undefined)
        faults.push(
          fault("missing-set-entry", member.name, `ipset ${name} does not hold its address ${address}`),
        );
      else if (entry[1] !== member.uid)
        faults.push(
          fault(
            "wrong-set-entry",
            member.name,
            `ipset ${name} holds its address ${address} for "${entry[1]}"`,
          ),
        );
    }
  }
  for (const [address, comment] of entries) {
    const isOwned = members.some(({ addresses }) => addresses.some((each) => sameAddress(each, address)));
    if (isOwned) continue;
    const owner = members.find(({ uid }) => uid === comment);
    // its addresses may not have reached the API server yet
    if (owner !== undefined && owner.addresses.length === 0) continue;
    const whose = owner === undefined ? `pod ${comment || "nobody"}, which is not in the mesh` : owner.name;
    const what = `ipset ${name} holds ${address} of ${whose}${owner === undefined ? "" : ", which does not have it"}`;
    faults.push(fault("stale-set-entry", owner?.name ?? null, what));
  }
  return faults;
}
