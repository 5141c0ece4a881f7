// SPDX-License-Identifier: Apache-2.0
// Whether pods that do nothing are as they were: by the kernel, by ztunnel, by their objects, and by what happened in between.
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import type { Scene } from "./scene.ts";

const annotation = "ambient.istio.io/redirection";

/** Watches from its making on. */
export class BystanderWatch {
  readonly #scene: Scene;
  readonly #generations: ReadonlyMap<Pod, number>;
  readonly #toldBefore: number;

  private constructor(scene: Scene, generations: ReadonlyMap<Pod, number>) {
    this.#scene = scene;
    this.#generations = generations;
    this.#toldBefore = scene.mesh.ztunnel.events.length;
  }

  static async begin(scene: Scene): Promise<BystanderWatch> {
    const generations = new Map<Pod, number>();
    for (const pod of [...scene.bystanders, scene.outsider])
      generations.set(pod, await ruleGeneration(pod.netns));
    return new BystanderWatch(scene, generations);
  }

  /** What is not as it was; empty when all is well. */
  async strays(): Promise<string[]> {
    const { mesh, bystanders, outsider, variant } = this.#scene;
    const wrong: string[] = [];
    const note = (why: string): number => wrong.push(why);
    const { workloads } = await mesh.ztunnel.stats();
    // the log is read in order: what it wrote before that answer is here
    const told = mesh.ztunnel.events.slice(this.#toldBefore);
    for (const pod of bystanders) {
      const { name } = pod.spec;
      if (told.some(({ event, uid }) => event === "pod-removed" && uid === pod.uid))
        note(`ztunnel let "${name}" go`);
      if (Number(workloads[pod.uid]?.ino) !== (await pod.netnsInode()))
        note(`ztunnel does not serve "${name}"`);
      if (mesh.kubelet.annotation(pod, annotation) !== "enabled") note(`"${name}" is not annotated`);
      await claimCaptured(pod, { variant }).catch((error: Error) => note(error.message));
    }
    if (workloads[outsider.uid] !== undefined) note(`ztunnel serves "${outsider.spec.name}"`);
    await claimUntouched(outsider).catch((error: Error) => note(error.message));
    for (const [pod, before] of this.#generations) {
      const changes = (await ruleGeneration(pod.netns)) - before;
      if (changes !== 0) note(`the rules of "${pod.spec.name}" were written ${changes} times`);
    }
    return wrong;
  }
}
