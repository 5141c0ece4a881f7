// SPDX-License-Identifier: Apache-2.0
// Makes the state API's answers from the agent's parts.
import { Limit } from "../loop/limit.ts";
import type { AgentFacts } from "./agent-facts.ts";
import { reportNode } from "./node-report.ts";
import type { NodeReport } from "./node-state-report.ts";
import { lookAtPod } from "./pod-look.ts";
import { type KnownPod, knownPod, knownPods, reportPod } from "./pod-report.ts";
import type { PodDetailReport, PodListReport } from "./state-report.ts";

/** Who answers the state API's questions. */
export type StateSource = Pick<AgentState, "pods" | "pod" | "node">;

/** Looks into namespaces under way at a time; those who ask for more wait. */
const maxLooks = 4;
const maxTransitionsShown = 16;

/** The agent's own answers. */
export class AgentState {
  readonly #facts: AgentFacts;
  /** Looks under way: those who ask for the same pod meanwhile share one. */
  readonly #looks = new Map<string, Promise<PodDetailReport>>();
  readonly #places = new Limit(maxLooks);

  constructor(facts: AgentFacts) {
    this.#facts = facts;
  }

  /** From memory. */
  pods(): PodListReport {
    const facts = this.#facts;
    const pods = knownPods(facts).map((known) => reportPod(facts, known, { transitions: 1 }));
    return { at: new Date().toISOString(), node: facts.config.nodeName, pods };
  }

  /** Looked at in the kernel; `undefined`: the node has no such pod. */
  async pod(namespace: string, name: string): Promise<PodDetailReport | undefined> {
    const known = this.#find(namespace, name);
    if (known === undefined) return undefined;
    const { uid } = known.pod;
    let look = this.#looks.get(uid);
    if (look === undefined) {
      look = this.#places.run(() => this.#look(known)).finally(() => this.#looks.delete(uid));
      this.#looks.set(uid, look);
    }
    return await look;
  }

  /** From memory. */
  node(): Promise<NodeReport> {
    return reportNode(this.#facts);
  }

  /** The newest of that name; the enrolment may have one that the watch has not. */
  #find(namespace: string, name: string): KnownPod | undefined {
    const { cluster, enrolment } = this.#facts;
    const watched = cluster.podByName(namespace, name);
    if (watched !== undefined) return knownPod(this.#facts, watched);
    for (const { facts: pod } of enrolment.records()) {
      if (pod?.namespace === namespace && pod.name === name) return knownPod(this.#facts, pod);
    }
    return undefined;
  }

  async #look(known: KnownPod): Promise<PodDetailReport> {
    const facts = this.#facts;
    const { namespace: ns, name, uid } = known.pod;
    const observed = await lookAtPod(facts, known);
    const report = reportPod(facts, knownPod(facts, known.pod), { transitions: maxTransitionsShown });
    return {
      at: new Date().toISOString(),
      node: facts.config.nodeName,
      ...report,
      observed,
      log: facts.ring.ofPod({ ns, name, uid }),
    };
  }
}
