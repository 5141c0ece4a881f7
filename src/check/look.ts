// SPDX-License-Identifier: Apache-2.0
// What the kernel has of a pod's capture: every question for itself, so that one without an answer costs its own part only.
import { listeningSockets, type ZtunnelSocket } from "../linux/listening-sockets.ts";
import { interfaceAddresses } from "../linux/netlink/interface-addresses.ts";
import type { Netns } from "../linux/netns.ts";
import { within } from "../loop/deadline.ts";
import type { BypassReport } from "../netfilter/bypass/bypass.ts";
import { findChains, findLegacyChains, type LegacyChain } from "../netfilter/find-chains.ts";
import { findNativeTables, nativeTableName } from "../netfilter/native/native-tables.ts";
import { BACKEND_NAMES } from "../netfilter/variant.ts";
import type { FindBypasses } from "../redirection/pod-bypass.ts";
import type { PodRedirection } from "../redirection/pod-redirection.ts";
import type { Verification } from "../redirection/redirection-call.ts";
import { CHAIN_NAMES, type RedirectOptions, TABLE_NAMES } from "../redirection/rules.ts";
import type { SidecarOptions } from "../redirection/sidecar-options.ts";
import type { SidecarDrift, SidecarRedirection } from "../redirection/sidecar-redirection.ts";
import { isTouched } from "./signs.ts";

/** What became of a question; neither is there when it was not asked. */
export interface Answer<T> {
  readonly value?: T;
  readonly error?: Error;
}

/** A pod's namespace as it is. */
export interface SeenCapture {
  /** `Netns.key` */
  readonly key: string;
  readonly rules: Answer<Verification>;
  /** What differs of the redirection to its sidecar. */
  readonly sidecar: Answer<readonly SidecarDrift[]>;
  /** ztunnel's ports. */
  readonly sockets: Answer<readonly ZtunnelSocket[]>;
  /** Of all its interfaces. */
  readonly addresses: Answer<readonly string[]>;
  /** Whether an ambient agent wrote in it; not asked of a pod that is to be redirected. */
  readonly touched: Answer<boolean>;
  /** In which iptables variants our chains are besides what is in use. */
  readonly elsewhere: Answer<readonly string[]>;
  /** What has our names and is not ours, or is an istio-cni's. */
  readonly strangers: Answer<readonly string[]>;
  /** What stands before our rules. */
  readonly bypasses: Answer<BypassReport>;
}

/** Where else to look. */
export interface Search {
  /** What the node keeps its rules by: the others are searched. */
  readonly variant: "nft" | "legacy" | "native";
}

/** How a pod should be redirected. */
export interface WantedRedirections {
  /** To ztunnel; undefined: not, or not known. */
  readonly redirect?: RedirectOptions | undefined;
  /** To its sidecar; undefined: it has none that this node serves. */
  readonly sidecar?: SidecarOptions | undefined;
}

/** With what to look. */
export interface CaptureMeans {
  readonly redirection: Pick<PodRedirection, "verify">;
  readonly sidecars: Pick<SidecarRedirection, "verify">;
  /** Looks for what stands before our rules. Absent: it is not looked for. */
  readonly bypasses?: FindBypasses | undefined;
  /** Also what neither redirects nor serves the pod, but should not be there. Absent: it is not looked for. */
  readonly search?: Search;
  /** For each question; they are asked at once. Default: as long as the kernel takes. */
  readonly limitMs?: number;
}

/** Where chains of our names are ours, and where not. */
const OURS = chainsOf(TABLE_NAMES);
const STRANGE = chainsOf(["filter", "security"]);

/** Looks at a namespace; writes nothing, never rejects. */
export async function lookAtCapture(
  netns: Netns,
  { redirect, sidecar: served }: WantedRedirections,
  { redirection, sidecars, bypasses: find, search, limitMs }: CaptureMeans,
): Promise<SeenCapture> {
  const ask = <T>(question: false | undefined | ((signal: AbortSignal) => Promise<T>)): Promise<Answer<T>> =>
    question ? answerOf(question, limitMs) : Promise.resolve({});
  const [rules, sidecar, sockets, addresses, touched, elsewhere, strangers, bypasses] = await Promise.all([
    ask(redirect && ((signal) => redirection.verify(netns, redirect, { signal }))),
    ask(served && ((signal) => sidecars.verify(netns, served, { signal }))),
    ask(() => listeningSockets(netns.fd)),
    ask(search && (() => addressesOf(netns))),
    ask(search && !redirect && (() => isTouched(netns))),
    ask(redirect && search && (() => elsewhereIn(netns, search))),
    ask(redirect && search && (() => strangersIn(netns, search))),
    ask(redirect && find && (() => find(netns, redirect))),
  ]);
  return { key: netns.key, rules, sidecar, sockets, addresses, touched, elsewhere, strangers, bypasses };
}

/** Waits for an answer, but not for ever; who is too late is told to stop. */
export async function answerOf<T>(
  question: (signal: AbortSignal) => Promise<T>,
  limitMs?: number,
): Promise<Answer<T>> {
  const abort = new AbortController();
  try {
    const answer = question(abort.signal);
    return { value: await (limitMs === undefined ? answer : within(answer, { ms: limitMs })) };
  } catch (error) {
    return { error: error as Error };
  } finally {
    abort.abort();
  }
}

async function addressesOf(netns: Netns): Promise<string[]> {
  return (await interfaceAddresses(netns)).map(({ address }) => address);
}

async function elsewhereIn(netns: Netns, { variant }: Search): Promise<string[]> {
  const [nft, legacy] = await Promise.all([
    variant === "nft" ? [] : findChains(netns.fd, OURS),
    variant === "legacy" ? [] : findLegacyChains(netns.fd, OURS),
  ]);
  const places = [
    ...nft.map(({ family }) => `${BACKEND_NAMES.nft} (IPv${family})`),
    ...legacy.map(({ family }) => `${BACKEND_NAMES.legacy} (IPv${family})`),
  ];
  return [...new Set(places)];
}

async function strangersIn(netns: Netns, { variant }: Search): Promise<string[]> {
  const [tables, chains] = await Promise.all([
    variant === "native" ? [] : findNativeTables(netns.fd),
    findChains(netns.fd, STRANGE),
  ]);
  return [
    ...tables.map((table) => `${nativeTableName(table)} is there, which NATIVE_NFTABLES=true writes`),
    ...chains.map(({ family, table, chain }) => `table ${table} of IPv${family} has a chain ${chain}`),
  ];
}

function chainsOf(tables: readonly string[]): LegacyChain[] {
  return ([4, 6] as const).flatMap((family) =>
    tables.flatMap((table) => CHAIN_NAMES.map((chain) => ({ family, table, chain }))),
  );
}
