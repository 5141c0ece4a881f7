// SPDX-License-Identifier: Apache-2.0
// Takes our redirection out of every pod of the node; their traffic goes straight from then on.

import { isTouched } from "../check/signs.ts";
import { hostNetnsKeys, netnsKeyAt } from "../linux/host-netns.ts";
import { forEachLimited } from "../loop/limit.ts";
import { writesIpv6 } from "../netfilter/variant.ts";
import { PodRedirection } from "../redirection/pod-redirection.ts";
import { type FoundNetns, findNetns, openFound } from "./node-cleanup-netns.ts";
import type { CleanupTools } from "./node-cleanup-tools.ts";

export interface PodCleanupOptions {
  readonly hostRoot: string;
  /** Further namespaces in which no pod rules are ever written. */
  readonly hostNetnsPath: string;
  readonly tools: CleanupTools;
  /** Namespaces that stay as they are, by their `Netns.key`: the pods in them are still announced to istiod. */
  readonly spare?: ReadonlySet<string>;
}

/** Each holds a descriptor; programs are bounded by themselves. */
const maxParallel = 8;
/** An ADD that was under way may finish behind our back. */
const maxRounds = 3;

/** Names of the namespaces that hold something of ours, and why some could not be looked at. @throws Error when the host's own cannot be told */
export async function lookAtPods(
  options: PodCleanupOptions,
): Promise<{ enrolled: string[]; failed: string[] }> {
  const { enrolled, failed } = await findEnrolled(options, await hostKeys(options));
  return { enrolled: enrolled.map(({ name }) => name), failed };
}

/** Cleans all namespaces; one that fails stops no other. @returns names of namespaces that were changed, and why others could not be cleaned @throws Error when the host's own cannot be told, or tools are missing */
export async function cleanPods(
  options: PodCleanupOptions,
): Promise<{ cleaned: string[]; failed: string[] }> {
  const hostNetns = await hostKeys(options);
  const cleaned = new Set<string>();
  const failed = new Map<string, string>();
  let unreadable: string[] = [];
  for (let round = 0; round < maxRounds; round++) {
    const found = await findEnrolled(options, hostNetns);
    unreadable = found.failed;
    const isNew = ({ key }: FoundNetns) => !failed.has(key);
    const todo = found.enrolled.filter(isNew);
    if (todo.length === 0) break;
    const backend = await options.tools();
    const redirection = new PodRedirection({ backend, hostNetns, ipv6: writesIpv6(backend) });
    const cleanOne = async (each: FoundNetns): Promise<void> => {
      try {
        if (await clean(each, redirection)) cleaned.add(each.name);
      } catch (error) {
        failed.set(each.key, `${each.name}: ${(error as Error).message}`);
      }
    };
    await forEachLimited(todo, cleanOne, { places: maxParallel });
  }
  return { cleaned: [...cleaned], failed: [...failed.values(), ...unreadable] };
}

async function clean(found: FoundNetns, redirection: PodRedirection): Promise<boolean> {
  using netns = openFound(found);
  if (netns === undefined) return false;
  const { changed } = await redirection.remove(netns);
  return changed;
}

async function findEnrolled(
  { hostRoot, spare }: PodCleanupOptions,
  hostNetns: ReadonlySet<string>,
): Promise<{ enrolled: FoundNetns[]; failed: string[] }> {
  const ignore = new Set([...hostNetns, ...(spare ?? [])]);
  const enrolled: FoundNetns[] = [];
  const failed: string[] = [];
  const lookInto = async (found: FoundNetns): Promise<void> => {
    try {
      using netns = openFound(found);
      // the process that led here may have been replaced by another one since
      if (netns === undefined || ignore.has(netns.key)) return;
      if (await isTouched(netns)) enrolled.push(found);
    } catch (error) {
      failed.push(`${found.name} cannot be looked at: ${(error as Error).message}`);
    }
  };
  await forEachLimited(await findNetns({ hostRoot, ignore }), lookInto, { places: maxParallel });
  return { enrolled, failed };
}

async function hostKeys(options: PodCleanupOptions): Promise<ReadonlySet<string>> {
  const keys = new Set(hostNetnsKeys(options));
  const key = netnsKeyAt(options.hostNetnsPath);
  if (key !== undefined) keys.add(key);
  return keys;
}
