// SPDX-License-Identifier: Apache-2.0
// Reads one pod's rules with their counters from the kernel, for people who look at it: bounded, shared, and writing nothing.
import { performance } from "node:perf_hooks";
import type { Netns } from "../linux/netns.ts";
import { within } from "../loop/deadline.ts";
import { Limit } from "../loop/limit.ts";
import type { Family } from "../netfilter/family.ts";
import type { RuleEngine } from "../netfilter/rule-engine.ts";
import type { PodRedirection } from "../redirection/pod-redirection.ts";
import type { RedirectOptions } from "../redirection/rules.ts";
import type { ClusterFacts, EnrolmentFacts } from "../status/agent-facts.ts";
import { explainRules } from "./packet-paths.ts";
import type { PodRulesReport, RuleFamilyReport } from "./rules-report.ts";

export interface PodRulesOptions {
  readonly nodeName: string;
  readonly cluster: Pick<ClusterFacts, "podByName">;
  readonly enrolment: Pick<EnrolmentFacts, "record" | "records" | "desired">;
  readonly backend: { readonly variant: RuleEngine["variant"] };
  readonly redirection: Pick<PodRedirection, "rules">;
  /** AMBIENT_IPV6 */
  readonly ipv6: boolean;
}

/** Who can tell the rules of a pod. */
export interface RulesSource {
  /** @returns undefined when the node has no such pod */
  rules(namespace: string, name: string): Promise<PodRulesReport | undefined>;
}

interface Subject {
  readonly uid: string;
  readonly netns: Netns | undefined;
  readonly wanted: boolean | null;
  readonly redirect: RedirectOptions | undefined;
}

/** Looks under way at a time. */
const maxLooks = 2;
/** Several pages that look at one pod cost as much as one. */
const maxAgeMs = 500;
/** Whoever writes in the same namespace goes first. */
const lookTimeoutMs = 3000;

/** Rules with counters, read when somebody asks. */
export class PodRules implements RulesSource {
  readonly #options: PodRulesOptions;
  readonly #looks = new Map<
    string,
    { readonly startedMs: number; readonly report: Promise<PodRulesReport> }
  >();
  readonly #places = new Limit(maxLooks);

  constructor(options: PodRulesOptions) {
    this.#options = options;
  }

  async rules(ns: string, name: string): Promise<PodRulesReport | undefined> {
    const subject = this.#find(ns, name);
    if (subject === undefined) return undefined;
    const nowMs = performance.now();
    for (const [uid, { startedMs }] of this.#looks)
      if (nowMs - startedMs > lookTimeoutMs) this.#looks.delete(uid);
    const known = this.#looks.get(subject.uid);
    if (known !== undefined && nowMs - known.startedMs < maxAgeMs) return await known.report;
    const report = this.#places.run(() => this.#look(subject, { ns, name }));
    this.#looks.set(subject.uid, { startedMs: nowMs, report });
    return await report;
  }

  #find(ns: string, name: string): Subject | undefined {
    const { cluster, enrolment } = this.#options;
    const pod =
      cluster.podByName(ns, name) ??
      [...enrolment.records()].find(({ facts }) => facts?.namespace === ns && facts.name === name)?.facts;
    if (pod === undefined) return undefined;
    const record = enrolment.record(pod.uid);
    const desired = enrolment.desired(record?.facts ?? pod);
    const netns = record?.sandbox?.netns;
    return {
      uid: pod.uid,
      netns: netns?.closed === true ? undefined : netns,
      wanted: desired?.wanted ?? null,
      redirect: desired?.wanted === true ? desired.redirect : undefined,
    };
  }

  async #look(subject: Subject, pod: { ns: string; name: string }): Promise<PodRulesReport> {
    const { backend, nodeName } = this.#options;
    const startMs = performance.now();
    let families: RuleFamilyReport[] = [];
    let unread: string | null = null;
    try {
      if (subject.netns === undefined) unread = "its network namespace is not known to the agent";
      else families = await this.#read(subject.netns, subject.redirect);
    } catch (error) {
      unread = (error as Error).message;
    }
    const { uid, wanted } = subject;
    return {
      at: new Date().toISOString(),
      node: nodeName,
      ...pod,
      uid,
      netns: subject.netns?.key ?? null,
      wanted,
      variant: backend.variant,
      ms: Math.round(10 * (performance.now() - startMs)) / 10,
      unread,
      families,
    };
  }

  async #read(netns: Netns, wanted: RedirectOptions | undefined): Promise<RuleFamilyReport[]> {
    const { ipv6, redirection } = this.#options;
    const families: readonly Family[] = ipv6 ? [4, 6] : [4];
    const abort = new AbortController();
    try {
      const look = redirection.rules(netns, wanted, { signal: abort.signal });
      const { chains } = await within(look, { ms: lookTimeoutMs });
      return families.map((family) => ({ family, ...explainRules(chains, wanted, family) }));
    } finally {
      abort.abort();
    }
  }
}
