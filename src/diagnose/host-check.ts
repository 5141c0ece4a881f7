// SPDX-License-Identifier: Apache-2.0
// The host's side of kubelet probes: what the agent itself would find different, by the names of faults.
import { Netns } from "../linux/netns.ts";
import { silentLogger } from "../log/logger.ts";
import { HostState, type HostStateOptions } from "../probes/host-state.ts";
import { KubeletMatch, MATCH_ANY, type ProbeMatch } from "../probes/kubelet-match.ts";
import { canonicalAddress, familyOf } from "../probes/probe-address.ts";
import type { ProbeDrift } from "../probes/probe-drift.ts";
import { PROBE_SETS } from "../probes/probe-set.ts";
import type { HostMembers } from "../probes/set-members.ts";
import { type Fault, type FaultKind, fault } from "./fault.ts";

/** A pod whose addresses the sets should, or may, hold. */
export interface HostMember {
  readonly name: string;
  readonly uid: string;
  readonly addresses: readonly string[];
  /** False: an entry of it is no fault, and none is neither. */
  readonly required: boolean;
}

/** What the host should have. */
export interface HostCheckOptions extends HostStateOptions {
  readonly hostNetnsPath: string;
  readonly procRoot: string;
  readonly probeMatch: "any" | "kubelet";
  /** Every pod of the mesh on this node; `undefined`: not known, members are not judged. */
  readonly members: readonly HostMember[] | undefined;
}

/** Every mismatch of the host. @throws Error when the kernel cannot be asked */
export async function checkHost(options: HostCheckOptions): Promise<Fault[]> {
  using host = Netns.open(options.hostNetnsPath);
  const { members } = options;
  const isNative = options.backend.variant === "native";
  const { drift } = await new HostState(options).observe(host, {
    members: wantedMembers(members),
    match: await matchOf(options, host),
    rules: true,
  });
  const nameOf = (uid?: string) => members?.find((member) => member.uid === uid)?.name ?? null;
  return (
    drift
      // only who wrote the rule can tell, and what is of no pod hurts none
      .filter(({ kind }) => kind !== "stale-cgroup" && kind !== "stale-policy-rule")
      .map(({ kind, family, uid, detail }) => {
        const ofSet = SET_FAULTS[kind];
        if (kind === "missing-policy-rule") return fault("host-chain", nameOf(uid), detail);
        const ofHost = isNative ? "native nftables of the host" : `IPv${family} nat of the host`;
        const place = ofSet === undefined ? ofHost : `${isNative ? "set" : "ipset"} ${PROBE_SETS[family]}`;
        return fault(ofSet ?? "host-chain", nameOf(uid), `${place}: ${detail}`);
      })
  );
}

const SET_FAULTS: Readonly<Partial<Record<ProbeDrift["kind"], FaultKind>>> = {
  "missing-set": "missing-set",
  "wrong-set": "missing-set",
  "missing-member": "missing-set-entry",
  "wrong-owner": "wrong-set-entry",
  "stale-member": "stale-set-entry",
};

function wantedMembers(members: readonly HostMember[] | undefined): HostMembers {
  const owners = { 4: new Map<string, string>(), 6: new Map<string, string>() };
  // of a pod that need not be there, or whose addresses may not have reached the API server yet, an entry is right
  const spared = new Set<string>();
  for (const { uid, addresses, required } of members ?? []) {
    if (!required || addresses.length === 0) spared.add(uid);
    else for (const address of addresses) owners[familyOf(address)].set(canonicalAddress(address), uid);
  }
  const isStale = (comment: string) => members !== undefined && !spared.has(comment);
  return { owners, isStale };
}

async function matchOf(
  { probeMatch, procRoot, backend }: HostCheckOptions,
  host: Netns,
): Promise<ProbeMatch> {
  if (probeMatch === "any") return MATCH_ANY;
  return await new KubeletMatch({ procRoot, backend, log: silentLogger }).current(host.key);
}
