// SPDX-License-Identifier: Apache-2.0
// Takes the chain and the sets for kubelet probes out of the host.

import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { Netns } from "../linux/netns.ts";
import { findChains, findLegacyChains } from "../netfilter/find-chains.ts";
import { findNativeTables, nativeTableName } from "../netfilter/native/native-tables.ts";
import { writesIpv6 } from "../netfilter/variant.ts";
import { findBranchRules } from "../probes/branch-eni.ts";
import { findSets } from "../probes/host-look.ts";
import { HostState } from "../probes/host-state.ts";
import { PROBE_CHAIN, PROBE_TABLE } from "../probes/probe-rules.ts";
import { SET_NAMES } from "../probes/probe-set.ts";
import type { CleanupTools } from "./node-cleanup-tools.ts";

export interface HostCleanupOptions
  extends Pick<AgentConfig, "hostRoot" | "hostNetnsPath" | "probeSnatV4" | "probeSnatV6"> {
  readonly tools: CleanupTools;
}

type HostPlaces = Pick<HostCleanupOptions, "hostRoot" | "hostNetnsPath">;

/** What of ours the host holds. @throws Error when the host's namespace cannot be opened or read */
export async function lookAtHostRules(places: HostPlaces): Promise<string[]> {
  const found: string[] = [];
  await inEach(places, async (netns) => {
    found.push(...(await lookIn(netns)));
  });
  return [...new Set(found)];
}

/** Removes it; absence is success. @returns what was there @throws Error when something cannot be removed */
export async function cleanHost(options: HostCleanupOptions): Promise<string[]> {
  const removed: string[] = [];
  await inEach(options, async (netns) => {
    const found = await lookIn(netns);
    if (found.length === 0) return;
    const { probeSnatV4, probeSnatV6, tools } = options;
    const backend = await tools();
    const state = new HostState({ backend, probeSnatV4, probeSnatV6, ipv6: writesIpv6(backend) });
    await state.remove(netns);
    removed.push(...found);
  });
  return [...new Set(removed)];
}

const CHAINS = ([4, 6] as const).map((family) => ({ family, table: PROBE_TABLE, chain: PROBE_CHAIN }));

async function lookIn(netns: Netns): Promise<string[]> {
  const chains = [...(await findChains(netns.fd, CHAINS)), ...(await findLegacyChains(netns.fd, CHAINS))];
  const sets = await findSets(netns.fd, SET_NAMES);
  const tables = await findNativeTables(netns.fd);
  const rules = await findBranchRules(netns);
  return [
    ...(chains.length > 0 ? [`chain ${PROBE_CHAIN}`] : []),
    ...sets.map((name) => `ipset ${name}`),
    ...tables.map(nativeTableName),
    ...rules,
  ];
}

/** The namespace the agent was told to use, and the host's, in case its settings were others earlier. */
async function inEach(
  { hostRoot, hostNetnsPath }: HostPlaces,
  work: (netns: Netns) => Promise<void>,
): Promise<void> {
  const done = new Set<string>();
  for (const path of [hostNetnsPath, join(hostRoot, "proc/1/ns/net")]) {
    using netns = Netns.open(path);
    if (done.has(netns.key)) continue;
    done.add(netns.key);
    await work(netns);
  }
}
