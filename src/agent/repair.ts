// SPDX-License-Identifier: Apache-2.0
// The repair of sidecar pods as a part of the agent, where the settings ask for it.
import { soughtPod } from "../enrolment/runtime-pod.ts";
import type { SandboxFinder } from "../enrolment/sandbox-finder.ts";
import type { Sidecars } from "../enrolment/sidecars.ts";
import { RepairController } from "../repair/repair-controller.ts";
import type { InPlaceMeans, RepairInPlace } from "../repair/repair-in-place.ts";
import type { Ground } from "./ground.ts";

type Rules = Pick<Sidecars, "awaitsRules" | "apply">;

/** Without which a new pod gets no rules of ours. */
const neededByPods: readonly string[] = ["plugin", "install"];

/** @returns undefined where nothing is to be repaired: nobody is asked for pods then */
export function makeRepair(
  ground: Ground,
  { sidecars, finder }: { readonly sidecars: Rules; readonly finder: SandboxFinder },
): RepairController | undefined {
  const { config, client, events, metrics, loggers, readiness } = ground;
  const { mode } = config.repair;
  if (mode === undefined) return undefined;
  const log = loggers.scope("repair");
  return new RepairController({
    client,
    settings: { ...config.repair, mode },
    inPlace: { findNetns: netnsFinder(ground, finder), repairInPlace: lateRules(ground, sidecars) },
    holdsBack: () => {
      const missing = readiness.conditions.find(
        (each) => each.missing !== undefined && neededByPods.includes(each.name),
      );
      return missing?.missing;
    },
    events,
    onresult: (type, result) => metrics.repaired(type, result),
    log,
  });
}

/** The rules that the pod's ADD did not get, while it runs. */
function lateRules({ node }: Ground, sidecars: Rules): RepairInPlace {
  return async ({ uid, namespace, name, netns }, { signal }) => {
    const pod = node.pod(uid);
    if (pod === undefined || !sidecars.awaitsRules(pod))
      throw new Error(
        `Cannot repair pod "${namespace}/${name}": its sidecar does not wait for rules of the node's agent; ` +
          "see its annotations sidecar.istio.io/… and whether its namespace is excluded",
      );
    await sidecars.apply(pod, netns, { signal });
  };
}

/** Finds pods as those are found that started while no agent ran: by their processes, and what proves to be theirs. */
function netnsFinder({ node }: Ground, finder: SandboxFinder): InPlaceMeans["findNetns"] {
  return async (uid) => {
    const pod = node.pod(uid);
    return pod && (await finder.find(soughtPod(pod)))?.netns;
  };
}
