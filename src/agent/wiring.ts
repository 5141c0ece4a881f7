// SPDX-License-Identifier: Apache-2.0
// Who tells whom: what one part finds out, and what the others, readiness and people hear of it.
import type { Enrolment } from "../enrolment/enrolment.ts";
import type { ChainFight } from "../install/chain-keeper.ts";
import type { ProbePathReport, ProbePathWatch } from "../probes/probe-path-watch.ts";
import type { Ground } from "./ground.ts";

/** What is made with the wiring, and hears of others through it. */
interface Joined {
  readonly enrolment: Enrolment;
  readonly probePath: ProbePathWatch;
}

/** The parts are made with it, and joined by it once they are all there. */
export class Wiring {
  readonly fightCondition = "chain";
  readonly #ground: Pick<Ground, "readiness" | "node" | "events" | "config">;
  #capture: Joined | undefined;
  /** What the last synthetic probe that did not pass has found. */
  probeFinding: { readonly message: string; readonly remedy: string } | undefined;

  constructor(ground: Pick<Ground, "readiness" | "node" | "events" | "config">) {
    this.#ground = ground;
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
    if (fault === undefined) this.#ground.readiness.meet(name);
    else this.#ground.readiness.miss(name, fault);
  }

  probesState(fault: string | undefined): void {
    this.condition("probes", fault);
    if (fault === undefined) this.#capture?.probePath.suspect();
  }

  probePathOutcome({ uid, message, remedy }: ProbePathReport): void {
    this.probeFinding = { message, remedy };
    const pod = this.#ground.node.pod(uid);
    if (pod === undefined) return;
    this.#ground.events.record(pod, { reason: "AmbientProbesMayFail", message: `${message}. ${remedy}` });
  }

  fight({ rewrites, path, remedy }: ChainFight): void {
    const { config, node } = this.#ground;
    const pod = node.podByName(config.podNamespace, config.podName);
    const message = `Another program has taken ambient-cni out of the CNI chain "${path}" ${rewrites} times: ${remedy}`;
    this.#ground.readiness.miss(this.fightCondition, message);
    if (pod !== undefined) this.#ground.events.record(pod, { reason: "AmbientChainFight", message });
  }

  peace(): void {
    this.#ground.readiness.meet(this.fightCondition);
  }
}
