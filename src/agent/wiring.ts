// SPDX-License-Identifier: Apache-2.0
// Who tells whom: what one part finds out, and what the others, readiness and people hear of it.
import type { AgentConfig } from "../config.ts";
import type { Enrolment } from "../enrolment/enrolment.ts";
import type { EventRecorder } from "../kube/event-recorder.ts";
import type { NodeState } from "../kube/node-state.ts";
import type { ProbePathReport, ProbePathWatch } from "../probes/probe-path-watch.ts";
import type { Readiness } from "../status/readiness.ts";

/** Another program takes our entry out of the chain again and again. */
export interface ChainFight {
  readonly rewrites: number;
  readonly path: string;
  readonly remedy: string;
}

/** What hears of things from the start. */
export interface Listeners {
  readonly readiness: Readiness;
  readonly node: NodeState;
  readonly events: EventRecorder;
  readonly config: Pick<AgentConfig, "podNamespace" | "podName">;
}

/** What is made with the wiring, and hears of others through it. */
export interface Joined {
  readonly enrolment: Enrolment;
  readonly probePath: ProbePathWatch;
}

/** The parts are made with it, and joined by it once they are all there. */
export class Wiring {
  readonly fightCondition = "chain";
  readonly #readiness: Readiness;
  readonly #node: NodeState;
  readonly #events: EventRecorder;
  readonly #self: { readonly podNamespace: string; readonly podName: string };
  #capture: Joined | undefined;
  /** What the last synthetic probe that did not pass has found. */
  probeFinding: { readonly message: string; readonly remedy: string } | undefined;

  constructor({ readiness, node, events, config }: Listeners) {
    this.#readiness = readiness;
    this.#node = node;
    this.#events = events;
    this.#self = config;
  }

  /** From here on the parts hear of each other. */
  join(capture: Joined): void {
    this.#capture = capture;
  }

  /** Whether a pod is known to be out of the mesh; before the parts are joined nothing is. */
  isOutside(uid: string): boolean {
    return this.#capture?.enrolment.isOutside(uid) ?? false;
  }

  condition(name: string, fault: string | undefined): void {
    if (fault === undefined) this.#readiness.meet(name);
    else this.#readiness.miss(name, fault);
  }

  probesState(fault: string | undefined): void {
    this.condition("probes", fault);
    if (fault === undefined) this.#capture?.probePath.suspect();
  }

  probePathOutcome({ uid, message, remedy }: ProbePathReport): void {
    this.probeFinding = { message, remedy };
    const pod = this.#node.pod(uid);
    if (pod === undefined) return;
    this.#events.record(pod, { reason: "AmbientProbesMayFail", message: `${message}. ${remedy}` });
  }

  fight({ rewrites, path, remedy }: ChainFight): void {
    const pod = this.#node.podByName(this.#self.podNamespace, this.#self.podName);
    const message = `Another program has taken ambient-cni out of the CNI chain "${path}" ${rewrites} times: ${remedy}`;
    this.#readiness.miss(this.fightCondition, message);
    if (pod !== undefined) this.#events.record(pod, { reason: "AmbientChainFight", message });
  }

  peace(): void {
    this.#readiness.meet(this.fightCondition);
  }
}
