// SPDX-License-Identifier: Apache-2.0
// The agent's own way out of a node, when its DaemonSet was deleted, or has no place for this node any more.
import type { PluginServer } from "../cni/plugin-server.ts";
import type { AgentConfig } from "../config.ts";
import type { Enrolment } from "../enrolment/enrolment.ts";
import type { AnnotationWriter } from "../kube/annotation-writer.ts";
import type { Logger } from "../log/logger.ts";
import { unlessLate } from "../loop/deadline.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ProbePathWatch } from "../probes/probe-path-watch.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import { type PodsLeave, uninstallNode } from "./uninstall.ts";
import { whoServes } from "./uninstall-calls.ts";

export interface LeavingParts {
  readonly config: AgentConfig;
  readonly enrolment: Enrolment;
  readonly annotations: AnnotationWriter;
  readonly probePath: ProbePathWatch;
  readonly probes: HostProbes;
  readonly plugin: PluginServer;
  readonly ztunnel: ZdsServer;
  readonly log: Logger;
}

/** Within the 30 s that our chart grants where pods are to leave; what is not done by then stays in the mesh, or is opened. */
const leaveMeshMs = 20_000;
/** istio-cni's DaemonSet grants 5 s between SIGTERM and SIGKILL. */
const quietMs = 500;

/**
 * Takes entry, launcher and the host's part off the node. Pods stay in the mesh, served by ztunnel, for the next agent to take
 * over: as istio-cni leaves them. With `releasePods` they are taken out first, each once its annotation is.
 */
export async function leaveNode(parts: LeavingParts): Promise<void> {
  const { config, enrolment, probePath, probes, plugin, ztunnel, log } = parts;
  // an istio-cni that has come beside us keeps the pods
  const isLast = (await whoServes(config.pluginSocketPath)) !== "istio-cni";
  // the plugin socket stays open meanwhile: a pod that is being made goes on without the mesh
  const pods = config.install.releasePods && isLast ? await releasePods(parts) : "stay";
  // what runs from here on would put back what is taken away
  if (pods === "stay") await enrolment.stop();
  await probePath.stop();
  await probes.stop();
  // closed now, so that an agent that answers there is a successor's, to which everything is left
  await plugin.close();
  // it would put its socket back
  await ztunnel.close();
  const report = await uninstallNode({ ...config, ...config.install, isAgent: true, quietMs, pods, log });
  log[report.left.length === 0 ? "info" : "error"]({ ...report }, "left this node");
}

/** @returns the namespaces of pods whose annotation is still there: what leads them to ztunnel has to stay, too */
async function releasePods({ enrolment, annotations, log }: LeavingParts): Promise<PodsLeave> {
  const isKnown = await unlessLate(enrolment.leaveAll(), { ms: leaveMeshMs });
  if (isKnown === false) return "stay";
  const spare = new Set<string>();
  for (const { uid, facts, sandbox } of enrolment.stillAnnounced()) {
    // a late success would take the annotation from a pod that stays
    annotations.forget(uid);
    if (sandbox !== undefined) spare.add(sandbox.netns.key);
    const pod = `${facts?.namespace}/${facts?.name}`;
    log.warn({ pod, uid }, "a pod stays in the mesh: its annotation cannot be taken away");
  }
  return async () => ({ spare, failed: [], notes: [] });
}
