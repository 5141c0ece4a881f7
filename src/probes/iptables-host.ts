// SPDX-License-Identifier: Apache-2.0
// The host's share by iptables: sets of ipset that a rule names, looked at without a process, written, removed.
import { setTimeout as delay } from "node:timers/promises";
import { netnsKeyAt } from "../linux/host-netns.ts";
import { NetlinkError } from "../linux/netlink/exchange.ts";
import type { Netns } from "../linux/netns.ts";
import { ToolError, type ToolRunner } from "../linux/run-tool.ts";
import type { Family } from "../netfilter/family.ts";
import { BACKEND_NAMES, type RedirectBackend } from "../netfilter/variant.ts";
import type { Variant } from "../netfilter/variant-tools.ts";
import type { HostForm, SeenHost, WantedHost } from "./host-form.ts";
import { changeEntries, destroySet, findSets, lookAtHost } from "./host-look.ts";
import { HostRules, type WantedHostRules } from "./host-rules.ts";
import type { ProbeMatch } from "./kubelet-match.ts";
import type { ProbeDrift } from "./probe-drift.ts";
import { type EntryChange, isUsableSet, PROBE_SETS, planSet, SET_NAMES } from "./probe-set.ts";
import { ProbesError } from "./probes-error.ts";

/** The kernel lets go of a set some moments after the rule that named it. Source: linux nf_tables_api.c, nf_tables_trans_destroy_work. */
const DESTROY_DEADLINE_MS = 2_000;
const DESTROY_PAUSE_MS = 50;

interface HostPlan {
  readonly entries: readonly EntryChange[];
  readonly setLines: readonly string[];
  /** Families whose rules are to be written; sets that rules name come first. */
  readonly ruleFamilies: readonly Family[];
  readonly match: ProbeMatch;
}

/** Sets and rules of one host. */
export class IptablesHost implements HostForm {
  readonly #runner: ToolRunner;
  readonly #rules: HostRules;
  /** Rules of nf_tables are announced. */
  readonly unannounced: "entries" | "rules";
  #setWrites = 0;
  /** Key of the match that was written last. */
  #writtenMatch: string | undefined;

  constructor(backend: RedirectBackend, snat: Readonly<Record<Family, string>>) {
    this.#rules = new HostRules(backend, snat);
    this.#runner = backend.runner;
    this.unannounced = backend.variant === "nft" ? "entries" : "rules";
  }

  get counts() {
    return { setWrites: this.#setWrites, ruleWrites: this.#rules.writes };
  }

  /** @throws {ProbesError} FOREIGN_SET, RULE_REFUSED; what the engine and netlink throw */
  async observe(netns: Netns, wanted: WantedHost): Promise<SeenHost> {
    const { members, match, families, at = netns.fd } = wanted;
    const { sets, numbers } = await lookAtHost(at, families);
    const plans = families.map((family) => {
      const set = sets.get(family);
      if (!isUsableSet(set)) throw foreignSet(family, set?.type ?? "");
      return planSet(set, { owners: members.owners[family], isStale: members.isStale }, family);
    });
    // a rule goes before the set it names: without all sets there are not all rules
    const drift = !families.every((family) => sets.has(family))
      ? families.map((family) => missingRules(family))
      : wanted.rules
        ? await this.#observeRules(netns, { families, match, setNumbers: numbers })
        : [];
    const setLines = plans.flatMap(({ lines }) => lines);
    const entries = plans.flatMap((plan) => plan.entries);
    return {
      drift: [...plans.flatMap((plan) => plan.drift), ...drift],
      entryCount: families.reduce((sum, family) => sum + (sets.get(family)?.entries.size ?? 0), 0),
      write: () =>
        this.#write(netns, { entries, setLines, ruleFamilies: drift.length > 0 ? families : [], match }),
    };
  }

  async entries(netns: Netns, families: readonly Family[]): ReturnType<HostForm["entries"]> {
    const { sets } = await lookAtHost(netns.fd, families);
    return new Map([...sets].map(([family, { entries }]) => [family, entries]));
  }

  /** Takes our chain of one variant out. @throws as an engine does */
  async removeRules(netns: Netns, variant: Variant): Promise<ProbeDrift[]> {
    const families = await this.#rules.remove(netns, variant);
    const detail = `${BACKEND_NAMES[variant]} held our chain`;
    return families.map((family) => ({ kind: "leftover", family, detail }));
  }

  /** Rules of both variants first, then the sets that they name. @throws as an engine does; NetlinkError when a set stays in use */
  async remove(netns: Netns): Promise<ProbeDrift[]> {
    const rules = [...(await this.removeRules(netns, "nft")), ...(await this.removeRules(netns, "legacy"))];
    const sets = await findSets(netns.fd, SET_NAMES);
    for (const name of sets) await destroy(netns, name);
    this.#writtenMatch = undefined;
    const detail = (name: string) => `ipset ${name} was there`;
    return [
      ...rules,
      ...sets.map((name) => ({ kind: "leftover", family: 4, detail: detail(name) }) as const),
    ];
  }

  /** Sets first, because rules name them; a program only makes them. */
  async #write(netns: Netns, { entries, setLines, ruleFamilies: families, match }: HostPlan): Promise<void> {
    if (entries.length > 0) {
      this.#setWrites++;
      await changeEntries(netns.fd, entries);
    }
    if (setLines.length > 0) await this.#restoreSets(netns, setLines);
    if (families.length === 0) return;
    const { numbers } = await lookAtHost(netns.fd, families);
    await this.#rules.write(netns, { families, match, setNumbers: numbers });
    this.#writtenMatch = match.key;
  }

  /** Entered into the host's namespace when we are not in it. */
  async #restoreSets(netns: Netns, lines: readonly string[]): Promise<void> {
    this.#setWrites++;
    const isOurs = netnsKeyAt("/proc/self/ns/net") === netns.key;
    const call = { argv: ["ipset", "restore", "-exist"] as const, stdin: `${lines.join("\n")}\n` };
    try {
      await this.#runner.run(isOurs ? call : { ...call, netnsFd: netns.fd });
    } catch (error) {
      if (!(error instanceof ToolError && error.code === "TOOL_MISSING")) throw error;
      throw new ProbesError(
        "FAILED",
        "Cannot let kubelet probes past ztunnel without ipset: the program is not in PATH; the agent's image must hold ipset",
        { cause: error },
      );
    }
  }

  async #observeRules(netns: Netns, wanted: WantedHostRules): Promise<ProbeDrift[]> {
    const { families, match } = wanted;
    const drift = await this.#rules.observe(netns, wanted);
    // only the cgroup of today is certain to be the one that the kernel resolved
    const isStale = match.kind === "cgroup" && this.#writtenMatch !== match.key;
    if (!isStale || drift.length > 0) return drift;
    const detail = `the rule may name an earlier cgroup (${match.key})`;
    return families.map((family) => ({ kind: "stale-cgroup", family, detail }));
  }
}

async function destroy(netns: Netns, name: string): Promise<void> {
  const deadlineMs = performance.now() + DESTROY_DEADLINE_MS;
  for (;;) {
    try {
      return await destroySet(netns.fd, name);
    } catch (error) {
      if (!(error instanceof NetlinkError) || performance.now() > deadlineMs) throw error;
    }
    await delay(DESTROY_PAUSE_MS);
  }
}

function missingRules(family: Family): ProbeDrift {
  return { kind: "missing-chain", family, detail: `no rule can name the set ${PROBE_SETS[family]} yet` };
}

function foreignSet(family: Family, type: string): ProbesError {
  const name = PROBE_SETS[family];
  return new ProbesError(
    "FOREIGN_SET",
    `Cannot use the host's ipset "${name}": it is of type ${type}, so something else made it; ` +
      `remove what names it, then: ipset destroy ${name}`,
  );
}
