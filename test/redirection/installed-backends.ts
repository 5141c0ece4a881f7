// SPDX-License-Identifier: Apache-2.0
// The machine's iptables as backends of redirections that a test file makes, and the claim that nothing stays behind in it.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { afterAll, expect, vi } from "vitest";
import type { ToolRunner } from "../../src/linux/run-tool.ts";
import type { Family } from "../../src/netfilter/family.ts";
import { parseSave } from "../../src/netfilter/save-parser.ts";
import type { RedirectBackend } from "../../src/netfilter/variant.ts";
import { findTools, type Variant } from "../../src/netfilter/variant-tools.ts";
import { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import { patience } from "../support/node/patience.ts";
import { observedState } from "./saved-state.ts";
import { TestNetns } from "./test-netns.ts";
import { FAMILIES } from "./variants.ts";

export const HOST_NETNS: ReadonlySet<string> = new Set(["not-a-namespace"]);

/** Both variants, each knowing of the other. */
export async function installedBackends(runner: ToolRunner): Promise<Record<Variant, RedirectBackend>> {
  const installed = await findTools(runner);
  const of = (variant: Variant): RedirectBackend => {
    if (installed[variant] === undefined) throw new Error(`These tests need iptables-${variant}`);
    return { variant, installed, runner, reason: "test" };
  };
  return { nft: of("nft"), legacy: of("legacy") };
}

/** A redirection for which no namespace of a test is the host's. */
export function redirection(
  backend: RedirectBackend,
  changes: { ipv6?: boolean; timeoutMs?: number } = {},
): PodRedirection {
  return new PodRedirection({ backend, hostNetns: HOST_NETNS, ipv6: true, ...changes });
}

/** The program that prints the rules of a family. */
export function saveTool(family: Family, variant: Variant): string {
  return `${family === 4 ? "iptables" : "ip6tables"}-${variant}-save`;
}

/** How many tables hold chains of ours. */
export async function ourRules(pod: TestNetns, variant: Variant): Promise<number> {
  let count = 0;
  for (const family of FAMILIES)
    count += observedState(parseSave(await pod.run(saveTool(family, variant)))).size;
  return count;
}

/** After the file's tests this process holds no more than now, and no program of it is under way. */
export async function expectNothingLeftAfterwards(): Promise<void> {
  // One namespace made and thrown away first, so that what stays open for good is not counted as a leak.
  using _ = await TestNetns.make();
  const before = openFds().length;
  afterAll(async () => {
    const strays = () => childCommands().filter((name) => /tables|nsenter|cat|sleep/.test(name));
    await vi.waitFor(() => expect(strays()).toEqual([]), { timeout: 5000 * patience() });
    await vi.waitFor(() => expect(openFds().length).toBeLessThanOrEqual(before), {
      timeout: 5000 * patience(),
    });
  });
}

function openFds(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith("net:") || target.startsWith("pipe:") ? [target.replace(/\d+/, "N")] : [];
    } catch {
      return [];
    }
  });
}

/** Names of the programs that this process started and that have not ended. */
export function childCommands(): string[] {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ");
  return children.flatMap((pid) => {
    try {
      return [readFileSync(`/proc/${pid}/comm`, "utf8").trim()];
    } catch {
      return [];
    }
  });
}
