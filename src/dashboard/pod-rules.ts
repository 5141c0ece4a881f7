// SPDX-License-Identifier: Apache-2.0
// One pod's rules with their counters, for people who look at it: read as `ambient-cni debug` reads them, bounded and shared.
import { join } from "node:path";
import type { AgentConfig } from "../config.ts";
import { agentsEyes, type KernelEyes, openEyes } from "../diagnose/kernel-eyes.ts";
import { openAs, wantedPod } from "../diagnose/pod-check.ts";
import { readRules } from "../diagnose/rule-reader.ts";
import { type PodProcess, scanProc } from "../linux/proc-scan.ts";
import { systemClock } from "../loop/clock.ts";
import { within } from "../loop/deadline.ts";
import { Limit } from "../loop/limit.ts";
import type { NodeReport } from "../status/node-state-report.ts";
import { isServedSidecar } from "../status/served-sidecar.ts";
import type { StateReader } from "../status/state-reader.ts";
import type { PodReport } from "../status/state-report.ts";
import { explainRules } from "./packet-paths.ts";
import type { PodRulesReport, RuleFamilyReport } from "./rules-report.ts";

export interface PodRulesOptions {
  readonly config: AgentConfig;
  readonly agent: Pick<StateReader, "pods" | "node">;
}

interface Look {
  readonly startedMs: number;
  readonly report: Promise<PodRulesReport | undefined>;
}

/** Looks under way at a time. */
const maxLooks = 2;
/** Several pages that look at one pod cost as much as one. */
const maxAgeMs = 500;
/** A program that holds the namespace's lock may be slow. */
const lookTimeoutMs = 3000;

/** Rules with counters, read when somebody asks. */
export class PodRules {
  readonly #options: PodRulesOptions;
  readonly #looks = new Map<string, Look>();
  readonly #places = new Limit(maxLooks);
  /** By the agent's word on how to look: an agent that restarts may use another engine. */
  #eyes: { readonly key: string; readonly opening: Promise<KernelEyes> } | undefined;
  /** Where pods were found last, by UID; a pass over /proc costs more than a look. */
  readonly #found = new Map<string, PodProcess>();

  constructor(options: PodRulesOptions) {
    this.#options = options;
  }

  /** @returns undefined when the node has no such pod @throws Error naming why nobody can tell */
  async rules(ns: string, name: string): Promise<PodRulesReport | undefined> {
    const nowMs = systemClock.nowMs();
    for (const [key, { startedMs }] of this.#looks)
      if (nowMs - startedMs >= maxAgeMs) this.#looks.delete(key);
    const key = `${ns}/${name}`;
    const known = this.#looks.get(key) ?? {
      startedMs: nowMs,
      report: this.#places.run(() => this.#look(ns, name)),
    };
    this.#looks.set(key, known);
    return await known.report;
  }

  async #look(ns: string, name: string): Promise<PodRulesReport | undefined> {
    const { agent } = this.#options;
    const [{ pods }, node] = await Promise.all([agent.pods(), agent.node()]);
    for (const uid of this.#found.keys()) if (pods.every((pod) => pod.uid !== uid)) this.#found.delete(uid);
    const pod = pods.find((each) => each.ns === ns && each.name === name);
    if (pod === undefined) return undefined;
    const startMs = systemClock.nowMs();
    // one of its chains has the name of one of ours
    const sidecar = isServedSidecar(pod);
    let families: RuleFamilyReport[] = [];
    let unread: string | null = null;
    let running: PodProcess | undefined;
    try {
      const eyes = await this.#open(node);
      running = await this.#find(pod, eyes);
      if (!sidecar) families = await this.#read(pod, { eyes, running });
    } catch (error) {
      unread = (error as Error).message;
    }
    return {
      at: new Date().toISOString(),
      node: node.node,
      ns,
      name,
      uid: pod.uid,
      netns: running?.netnsKey ?? null,
      wanted: pod.desired.wanted,
      sidecar,
      variant: node.backend.variant,
      ms: Math.round(10 * (systemClock.nowMs() - startMs)) / 10,
      unread,
      families,
    };
  }

  async #open(node: NodeReport): Promise<KernelEyes> {
    const { config } = this.#options;
    const how = agentsEyes(config, node);
    const key = JSON.stringify(how);
    if (this.#eyes?.key !== key) this.#eyes = { key, opening: openEyes({ ...config, ...how }) };
    const eyes = this.#eyes;
    try {
      return await eyes.opening;
    } catch (error) {
      // the next look tries again
      if (this.#eyes === eyes) this.#eyes = undefined;
      throw error;
    }
  }

  async #find(pod: PodReport, { hostNetns }: KernelEyes): Promise<PodProcess | undefined> {
    const known = this.#found.get(pod.uid);
    if (known !== undefined) {
      using netns = openAs(known);
      if (netns !== undefined) return known;
    }
    const procRoot = join(this.#options.config.hostRoot, "proc");
    const { oldest } = await scanProc([wantedPod(pod)], { procRoot, ignoreNetns: hostNetns });
    const found = oldest.get(pod.uid);
    if (found === undefined) this.#found.delete(pod.uid);
    else this.#found.set(pod.uid, found);
    return found;
  }

  async #read(
    pod: PodReport,
    { eyes, running }: { readonly eyes: KernelEyes; readonly running: PodProcess | undefined },
  ): Promise<RuleFamilyReport[]> {
    const abort = new AbortController();
    try {
      const look = readRules(eyes, pod, running, { signal: abort.signal });
      const { chains } = await within(look, { ms: lookTimeoutMs });
      return eyes.families.map((family) => ({
        family,
        ...explainRules(chains, pod.desired.redirect ?? undefined, family),
      }));
    } finally {
      abort.abort();
    }
  }
}
