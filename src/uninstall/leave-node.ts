// SPDX-License-Identifier: Apache-2.0
// The agent's own way out of a node, when its DaemonSet was deleted: nobody comes after it.
import type { PluginServer } from "../cni/plugin-server.ts";
import type { AgentConfig } from "../config.ts";
import type { Enrolment } from "../enrolment/enrolment.ts";
import type { AnnotationWriter } from "../kube/annotation-writer.ts";
import type { Logger } from "../log/logger.ts";
import { unlessLate } from "../loop/deadline.ts";
import type { HostProbes } from "../probes/host-probes.ts";
import type { ProbePathWatch } from "../probes/probe-path-watch.ts";
import type { ZdsServer } from "../ztunnel/zds-server.ts";
import { uninstallNode } from "./uninstall.ts";

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

/** What is not done by then, uninstallNode does without ztunnel and API server. */
const leaveMeshMs = 1_500;
/** istio-cni's DaemonSet grants 5 s between SIGTERM and SIGKILL. */
const quietMs = 500;

/** Takes the pods out of the mesh in order, then everything of ours off the node. */
export async function leaveNode(parts: LeavingParts): Promise<void> {
  const { config, enrolment, annotations, probePath, probes, plugin, ztunnel, log } = parts;
  // the plugin socket stays open meanwhile: a pod that is being made goes on without the mesh
  await unlessLate(
    enrolment.leaveAll().then(() => annotations.idle()),
    { ms: leaveMeshMs },
  );
  await probePath.stop();
  await probes.stop();
  // closed now, so that an agent that answers there is a successor's, to which everything is left
  await plugin.close();
  // it would put its socket back
  await ztunnel.close();
  const { netDir, binDir, ownedFileName } = config.install;
  const report = await uninstallNode({
    ...config,
    netDir,
    binDir,
    ownedFileName,
    isAgent: true,
    quietMs,
    log,
  });
  log[report.left.length === 0 ? "info" : "error"]({ ...report }, "left this node");
}
