// SPDX-License-Identifier: Apache-2.0
// Chooses the iptables variant in which pods get their rules, once for each boot of the node.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { removeHalves, replaceFile } from "../linux/atomic-file.ts";
import { Netns } from "../linux/netns.ts";
import { ToolRunner } from "../linux/run-tool.ts";
import { type Logger, silentLogger } from "../log/logger.ts";
import type { Family } from "./family.ts";
import { countXtablesRules } from "./legacy/xtables-count.ts";
import { countNftRules, isAnswer } from "./nft/nft-count.ts";
import { describeCount, isMore } from "./rule-count.ts";
import { findTools, type InstalledTools, type Variant } from "./variant-tools.ts";

/** How rules get into the kernel: by the bytes of an iptables variant, or in pure nf_tables, which takes no program. */
export interface RedirectBackend {
  readonly variant: Variant | "native";
  /** Programs of the iptables variants, that in use among them: leftovers of the other are removed with its own. */
  readonly installed: InstalledTools;
  readonly runner: ToolRunner;
  /** Why this variant was chosen, for the log. */
  readonly reason: string;
}

/** How they are called in messages. */
export const BACKEND_NAMES: Readonly<Record<RedirectBackend["variant"], string>> = {
  nft: "iptables-nft",
  legacy: "iptables-legacy",
  native: "native nftables",
};

/** A variant as another process says it; undefined for one that this version does not know. */
export function knownVariant(text: string | undefined): RedirectBackend["variant"] | undefined {
  return text === "nft" || text === "legacy" || text === "native" ? text : undefined;
}

export interface BackendOptions {
  /** FORCE_IPTABLES_BINARY, or NATIVE_NFTABLES; `auto` looks at the host. */
  readonly variant: Variant | "native" | "auto";
  /** Folder that keeps the decision until the node's next boot. */
  readonly runDir: string;
  /** False for who only looks: a new decision is kept by nobody. Default true. */
  readonly keeps?: boolean;
  /** The /proc folder of a process in the host's network namespace, which is only read; for example /host/proc/1. */
  readonly hostProcess: string;
  /** Default: one with its default settings. */
  readonly runner?: ToolRunner;
  readonly log?: Logger;
  /** Default /proc/sys/kernel/random/boot_id. */
  readonly bootIdPath?: string;
}

/** Thrown when no variant can be used. */
export class BackendError extends Error {
  override readonly name = "BackendError";
  readonly code = "NO_IPTABLES";
}

/** Programs of the variant in use; undefined natively. */
export function toolsOf({ variant, installed }: Pick<RedirectBackend, "variant" | "installed">) {
  return variant === "native" ? undefined : installed[variant];
}

/** Whether rules of IPv6 can be written. */
export function writesIpv6(backend: Pick<RedirectBackend, "variant" | "installed">): boolean {
  return backend.variant === "native" || toolsOf(backend)?.[6] !== undefined;
}

/** File of the run folder that holds the decision. */
export const BACKEND_FILE = "iptables-backend.json";

/** Folder files that list the x_tables of a namespace; they are absent when the kernel has none. */
export const LEGACY_TABLE_LISTS: Readonly<Record<Family, string>> = {
  4: "ip_tables_names",
  6: "ip6_tables_names",
};

/**
 * Chooses the variant: the operator's word, then the decision of this boot, then the variant in which the host keeps
 * more rules, then nft. Rules are counted, by the kernel's own numbers where they are many, and never printed: what one says cannot
 * matter. Looking changes nothing: x_tables are asked for only where they exist already, because asking for a table creates it.
 * @throws {BackendError} when the programs it takes are not installed. @throws {ToolError} when plain ones do not tell their version.
 * @throws NativeError when x_tables that exist cannot be asked, or nf_tables do not answer
 * Source: istio/istio issue 61020 (self-priming detection); tools/istio-iptables/pkg/dependencies DetectIptablesVersion.
 */
export async function chooseBackend(options: BackendOptions): Promise<RedirectBackend> {
  const { variant: wanted, runner = new ToolRunner(), log = silentLogger } = options;
  const installed = await findTools(runner);
  if (wanted === "native") {
    const reason = "set by NATIVE_NFTABLES";
    log.info({ variant: "native", reason }, "rules are written in native nftables");
    return { variant: "native", installed, runner, reason };
  }
  const { variant, reason } =
    wanted === "auto"
      ? await choose(installed, { ...options, log })
      : { variant: wanted, reason: "set by FORCE_IPTABLES_BINARY" };
  if (installed[variant] === undefined) throw notInstalled({ variant, reason });
  log.info({ variant, reason }, "iptables variant chosen");
  return { variant, reason, installed, runner };
}

interface Choice {
  readonly variant: Variant;
  readonly reason: string;
}

/** The decision of this boot, or a new one, which is kept. */
async function choose(
  installed: InstalledTools,
  options: BackendOptions & Required<Pick<BackendOptions, "log">>,
): Promise<Choice> {
  const bootId = await readBootId(options.bootIdPath ?? "/proc/sys/kernel/random/boot_id");
  const file = join(options.runDir, BACKEND_FILE);
  const kept = await readDecision(file, bootId);
  if (kept !== undefined && installed[kept] !== undefined)
    return { variant: kept, reason: "chosen earlier in this boot" };
  const choice = await detect(installed, options.hostProcess);
  const { variant } = choice;
  const { keeps = true } = options;
  if (!keeps || bootId === undefined || installed[variant] === undefined) return choice;
  const content = `${JSON.stringify({ bootId, variant })}\n`;
  try {
    await removeHalves(file);
    await replaceFile(file, { content, mode: 0o600 });
  } catch (error) {
    // the next agent looks at the host again; without this one no pod of the mesh starts
    options.log.warn({ err: error }, "cannot keep the choice of the iptables variant in the run dir");
  }
  return choice;
}

async function detect(installed: InstalledTools, hostProcess: string): Promise<Choice> {
  if (installed.nft === undefined) return { variant: "legacy", reason: "iptables-nft is not installed" };
  if (installed.legacy === undefined) return { variant: "nft", reason: "iptables-legacy is not installed" };
  using netns = Netns.open(join(hostProcess, "ns/net"));
  const legacy = await countXtablesRules(netns.fd);
  const nft = await countNftRules(netns.fd).catch((error: Error) => {
    // the choice is for the whole boot: silence of a kernel that is busy decides nothing, and the start is tried again
    if (!isAnswer(error)) throw error;
    return error;
  });
  if (nft instanceof Error) {
    return { variant: "legacy", reason: `the kernel's nf_tables cannot be read: ${nft.message}` };
  }
  const reason = `the host has ${describeCount(nft)} iptables rules in nf_tables and ${describeCount(legacy)} in x_tables`;
  return { variant: isMore(legacy, nft) ? "legacy" : "nft", reason };
}

/**
 * Names of the x_tables that exist in the namespace of a /proc/…/net folder; none when the kernel has no x_tables.
 * Source: linux net/netfilter/x_tables.c xt_proto_init.
 */
export async function readLegacyTableNames(procNetDir: string, family: Family): Promise<string[]> {
  const text = await readFile(join(procNetDir, LEGACY_TABLE_LISTS[family]), "utf8").catch((error) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  });
  return text.split("\n").filter((name) => name !== "");
}

function notInstalled({ variant, reason }: Choice): BackendError {
  return new BackendError(
    `Cannot use iptables variant "${variant}" (${reason}): neither iptables-${variant}-save and ` +
      `iptables-${variant}-restore nor plain programs of this variant are in PATH; use an agent image that holds ` +
      "them, change FORCE_IPTABLES_BINARY, or set NATIVE_NFTABLES=true, which takes none",
  );
}

async function readBootId(path: string): Promise<string | undefined> {
  const text = await readFile(path, "utf8").catch(() => "");
  return text.trim() === "" ? undefined : text.trim();
}

/** What cannot be read or is of another boot counts as no decision. */
async function readDecision(file: string, bootId: string | undefined): Promise<Variant | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(file, "utf8"));
    const decision = value as { bootId?: unknown; variant?: unknown } | null;
    if (bootId === undefined || decision?.bootId !== bootId) return undefined;
    return decision.variant === "nft" || decision.variant === "legacy" ? decision.variant : undefined;
  } catch {
    return undefined;
  }
}
