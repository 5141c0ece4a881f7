// SPDX-License-Identifier: Apache-2.0
// One pod as the kernel has it against what should be: every mismatch by its name.

import { sameAddress } from "../linux/address.ts";
import { listeningSockets } from "../linux/listening-sockets.ts";
import { dumpNftRuleset } from "../linux/netlink/nftables.ts";
import { interfaceAddresses } from "../linux/netlink/rtnetlink.ts";
import { Netns } from "../linux/netns.ts";
import type { PodProcess, WantedPod } from "../linux/proc-scan.ts";
import type { Family } from "../netfilter/family.ts";
import { findNativeTables, nativeTableName } from "../netfilter/native-tables.ts";
import type { PodReport } from "../observe/state-report.ts";
import { bypassText } from "../redirection/bypass-words.ts";
import { findPodBypasses } from "../redirection/pod-bypass.ts";
import type { Verification } from "../redirection/pod-redirection.ts";
import { RedirectionError } from "../redirection/redirection-error.ts";
import { CHAIN_NAMES, type RedirectOptions, TABLE_NAMES } from "../redirection/rules.ts";
import { isBlank, nameDrift } from "./drift-names.ts";
import { type Fault, type FaultKind, fault } from "./fault.ts";
import type { KernelEyes } from "./kernel-eyes.ts";

/** A pod to be looked at. */
export interface PodSubject {
  /** `namespace/name`, or how the pod is called where its name is not known. */
  readonly name: string;
  readonly wanted: boolean;
  /** How it should be redirected; needed for a wanted pod. */
  readonly redirect: RedirectOptions | null;
  /** Its annotation; `undefined`: not known. */
  readonly annotation: string | null | undefined;
  readonly ips: readonly string[];
  /** It has, or should have, processes. */
  readonly shouldRun: boolean;
  /** `dev:ino` that the agent, and that ztunnel, holds for it. */
  readonly heldNetns: { readonly agent: string | null; readonly ztunnel: string | null };
  readonly running: PodProcess | undefined;
}

/** Every mismatch of one pod. @throws Error when the kernel cannot be asked */
export async function checkPod(eyes: KernelEyes, subject: PodSubject): Promise<Fault[]> {
  const { running, name } = subject;
  if (running === undefined) {
    if (!subject.wanted || !subject.shouldRun) return [];
    return [fault("no-sandbox", name, "no process of the pod was found in /proc")];
  }
  using netns = openAs(running);
  if (netns === undefined) return [];
  if (!subject.wanted) return await checkOutsider(eyes, { subject, netns });
  const swapped = await swappedFault(subject, netns);
  if (swapped !== undefined) return [swapped];
  return await checkCaptured(eyes, { subject, netns, running });
}

/** What the state API says of a pod, as a subject. */
export function subjectOf(pod: PodReport, running: PodProcess | undefined): PodSubject {
  return {
    name: `${pod.ns}/${pod.name}`,
    wanted: pod.desired.wanted === true,
    redirect: pod.desired.redirect,
    annotation: pod.annotation,
    ips: pod.ips,
    shouldRun: pod.phase === "Running" && pod.ips.length > 0,
    heldNetns: { agent: pod.observed?.netns ?? null, ztunnel: pod.observed?.ztunnel.netns ?? null },
    running,
  };
}

/** How its processes are found. */
export function wantedPod({ uid, observed }: PodReport): WantedPod {
  return { uid, containerIds: observed?.containerId ? [observed.containerId] : [] };
}

/** The process may have ended, and its number be another's, since it was looked at. */
function openAs({ netnsPath, netnsKey }: PodProcess): Netns | undefined {
  try {
    const netns = Netns.open(netnsPath);
    if (netns.key === netnsKey) return netns;
    netns.close();
    return undefined;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ESRCH") return undefined;
    throw error;
  }
}

async function swappedFault({ name, heldNetns, ips }: PodSubject, netns: Netns): Promise<Fault | undefined> {
  const { agent, ztunnel } = heldNetns;
  const holders = [
    ...(agent !== null && agent !== netns.key ? [`the agent holds ${agent}`] : []),
    ...(ztunnel !== null && ztunnel !== netns.key ? [`ztunnel was given ${ztunnel}`] : []),
  ];
  if (holders.length > 0) {
    return fault(
      "netns-swapped",
      name,
      `the pod runs in network namespace ${netns.key}, but ${holders.join(" and ")}`,
    );
  }
  if (ips.length === 0) return undefined;
  const addresses = await interfaceAddresses(netns.fd);
  if (addresses.some(({ address }) => ips.some((ip) => sameAddress(ip, address)))) return undefined;
  const what = `no interface in the pod's network namespace ${netns.key} has one of its addresses ${ips.join(", ")}`;
  return fault("netns-swapped", name, what);
}

interface Looked {
  readonly subject: PodSubject;
  readonly netns: Netns;
}

async function checkOutsider(eyes: KernelEyes, { subject, netns }: Looked): Promise<Fault[]> {
  const { name, annotation } = subject;
  // a sidecar's own rules have a chain ISTIO_OUTPUT too, but not in mangle
  const isTouched =
    (await eyes.redirection.isTouched(netns)) || (await chainsIn(eyes, netns, "mangle")).length > 0;
  if (isTouched)
    return [
      fault("unwanted-capture", name, "the pod should be outside the mesh, but has our rules or routing"),
    ];
  if (annotation !== "enabled") return [];
  return [fault("annotation-without-capture", name, "it is annotated as enabled, and nothing redirects it")];
}

async function checkCaptured(
  eyes: KernelEyes,
  { subject, netns, running }: Looked & { running: PodProcess },
): Promise<Fault[]> {
  const { name, annotation } = subject;
  const options = subject.redirect;
  if (options === null) return [];
  const [seen, elsewhere, closed, strangers, bypasses] = await Promise.all([
    verification(eyes, { netns, options }),
    leftElsewhere(eyes, netns),
    closedSockets(netns, options),
    foreignTables(eyes, netns),
    bypassesOf(eyes, { netns, running, options }),
  ]);
  if (seen instanceof RedirectionError)
    return [fault(seen.code === "TABLE_DORMANT" ? "dormant-table" : "unreadable-rules", name, seen.message)];
  const faults: Fault[] = [];
  const add = (kind: FaultKind, what: string): void => void faults.push(fault(kind, name, what));
  const families = ([4, 6] as const).filter((family) => isLookedAt(eyes, seen, family));
  const isGone = isBlank(seen.drift, options, families);
  if (elsewhere.length > 0) add("wrong-backend", describeElsewhere(eyes, { elsewhere, isGone }));
  for (const what of strangers) add("foreign-chain", what);
  // before rules that do not stand nothing can be
  if (!isGone && elsewhere.length === 0 && bypasses !== "") add("may-be-bypassed", bypasses);
  if (isGone && elsewhere.length === 0 && hasNoRouting(seen)) {
    const isClaimed = annotation === "enabled";
    if (isClaimed) add("annotation-without-capture", "it is annotated as enabled, and nothing redirects it");
    else add("not-captured", "it belongs into the mesh, and nothing redirects it");
    return faults;
  }
  const drift =
    isGone && elsewhere.length > 0 ? seen.drift.filter(({ kind }) => !isChainDrift(kind)) : seen.drift;
  for (const { kind, what } of nameDrift(drift, options)) add(kind, what);
  if (closed.length > 0) add("ztunnel-sockets", `ztunnel does not listen on ${closed.join(", ")} in the pod`);
  const isUnclaimed = annotation === null || (annotation === "pending" && closed.length === 0);
  if (isUnclaimed && !isGone)
    add("capture-without-annotation", `it is redirected, but annotated as ${annotation ?? "nothing"}`);
  return faults;
}

function isChainDrift(kind: string): boolean {
  return kind === "missing-chain" || kind === "missing-jump";
}

/** What differs, or why the rules cannot be judged. */
async function verification(
  eyes: KernelEyes,
  { netns, options }: { netns: Netns; options: RedirectOptions },
): Promise<Verification | RedirectionError> {
  try {
    return await eyes.redirection.verify(netns, options);
  } catch (error) {
    if (error instanceof RedirectionError && error.isUnreadable) return error;
    throw error;
  }
}

/** What stands before our rules, in words; empty: nothing. */
async function bypassesOf(
  { backend, ipv6 }: KernelEyes,
  { netns, running, options }: { netns: Netns; running: PodProcess; options: RedirectOptions },
): Promise<string> {
  const report = await findPodBypasses(netns, {
    variant: backend.variant,
    families: ipv6 ? [4, 6] : [4],
    redirect: options,
    procNetDir: running.procNetDir,
  });
  return bypassText(report);
}

function isLookedAt(eyes: KernelEyes, { skippedFamilies }: Verification, family: Family): boolean {
  if (family === 6 && !eyes.ipv6) return false;
  return !skippedFamilies.some((each) => each.family === family && each.part === "all");
}

function hasNoRouting({ routing: { v4, v6 } }: Verification): boolean {
  return !v4.rule && !v4.route && !v6.rule && !v6.route;
}

/** Our chains in the iptables variant that is not in use; native nftables are told of by their tables. */
async function leftElsewhere({ redirection }: KernelEyes, netns: Netns): Promise<Elsewhere[]> {
  const suspects = await redirection.leftovers(netns);
  return suspects
    .filter(({ engine }) => engine.variant !== "native")
    .map(({ engine: { variant }, drift }) => ({
      variant,
      families: [...new Set(drift.map(({ family }) => family))],
    }));
}

interface Elsewhere {
  readonly variant: string;
  readonly families: readonly Family[];
}

function describeElsewhere(
  { backend }: KernelEyes,
  { elsewhere, isGone }: { elsewhere: readonly Elsewhere[]; isGone: boolean },
): string {
  const where = elsewhere.map(
    ({ variant, families }) => `iptables-${variant} (${families.map((family) => `IPv${family}`).join(", ")})`,
  );
  const here = isGone ? "and not" : "and also";
  return `our chains are in ${where.join(" and ")} ${here} in iptables-${backend.variant}, which this node uses`;
}

async function closedSockets(netns: Netns, { dnsCapture }: RedirectOptions): Promise<string[]> {
  const sockets = await listeningSockets(netns.fd);
  return sockets
    .filter(({ listening, port }) => !listening && (dnsCapture || port !== 15053))
    .map(({ protocol, port }) => `${protocol}/${port}`);
}

/** Chains with our names where ours never are, and istio-cni's own tables. */
async function foreignTables({ backend }: KernelEyes, netns: Netns): Promise<string[]> {
  const found = (await findNativeTables(netns.fd)).map(describeNative);
  if (backend.variant !== "nft") return found;
  for (const { family, table, chains } of await dumpNftRuleset(netns.fd)) {
    if (family !== "inet" && TABLE_NAMES.some((name) => name === table)) continue;
    for (const { name } of chains) {
      if (CHAIN_NAMES.some((ours) => ours === name))
        found.push(`table ${family} ${table} has a chain ${name}`);
    }
  }
  return found;
}

function describeNative(table: string): string {
  return `${nativeTableName(table)} is there, which an istio-cni with NATIVE_NFTABLES writes`;
}

/** Our chains in one table of nf_tables, of either family. */
async function chainsIn({ backend }: KernelEyes, netns: Netns, wanted: string): Promise<string[]> {
  if (backend.variant !== "nft") return [];
  const tables = (await dumpNftRuleset(netns.fd)).filter(
    ({ family, table }) => family !== "inet" && table === wanted,
  );
  return tables.flatMap(({ chains }) =>
    chains.map(({ name }) => name).filter((name) => CHAIN_NAMES.some((ours) => ours === name)),
  );
}
