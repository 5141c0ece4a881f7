// SPDX-License-Identifier: Apache-2.0
// What every part of the agent stands on: settings, the host's iptables, the API server and what is known of the node through it.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { AgentConfig, SettingFault } from "../config.ts";
import { AnnotationWriter } from "../kube/annotation-writer.ts";
import { ApiClient } from "../kube/api-client.ts";
import { EventRecorder } from "../kube/event-recorder.ts";
import { NodeState } from "../kube/node-state.ts";
import { hostNetnsKeys } from "../linux/host-netns.ts";
import type { Logger, LoggerFactory } from "../log/logger.ts";
import { BackendError, chooseBackend, type RedirectBackend } from "../netfilter/variant.ts";
import { Metrics } from "../status/metrics.ts";
import { Readiness } from "../status/readiness.ts";

/** What everything else stands on. */
export type Ground = Awaited<ReturnType<typeof makeGround>>;

/** Settings that cannot be followed, in one line. */
export function describeFaults(faults: readonly SettingFault[]): string {
  return faults.map(({ name, value, reason }) => `${name}="${value}" ${reason}`).join("; ");
}

/** The conditions that a ready agent meets, each with what is said until then. */
export function makeReadiness(config: AgentConfig): Readiness {
  return new Readiness({
    ...(config.faults.length > 0 ? { settings: describeFaults(config.faults) } : {}),
    watches: "the lists of pods and namespaces have not come yet",
    enrolment: "the node's pods have not been looked at yet",
    ...(config.install.enabled ? { install: "the plugin is not in the CNI chain yet" } : {}),
    plugin: "the plugin socket is not open yet",
    "self-test": "it has not ended yet",
    ...(config.ambient ? { probes: "the host's rules for kubelet probes have not been looked at yet" } : {}),
  });
}

/** @throws when the host cannot be seen, its iptables cannot be used, or there are no credentials */
export async function makeGround(
  config: AgentConfig,
  { loggers, readiness }: { readonly loggers: LoggerFactory; readonly readiness: Readiness },
) {
  await mkdir(config.runDir, { recursive: true });
  const hostNetns = hostNetnsKeys(config);
  const backend = await chooseUsable(config, { readiness, log: loggers.scope("redirect") });
  const client = ApiClient.load({ kubeconfigPath: config.kubeconfigPath });
  const log = loggers.scope("kube");
  const { nodeName } = config;
  const node = new NodeState({ client, nodeName, log });
  const metrics = new Metrics();
  const events = new EventRecorder({ client, nodeName, log, onresult: (result) => metrics.event(result) });
  return {
    config,
    loggers,
    readiness,
    metrics,
    hostNetns,
    backend,
    client,
    node,
    annotations: new AnnotationWriter({ client, lookup: (uid) => node.pod(uid), log }),
    events,
  };
}

/** A variant that the operator asks for and that is not there leaves the one that the host uses: without any no pod is captured. */
async function chooseUsable(
  { iptablesVariant: variant, runDir, hostRoot }: AgentConfig,
  { readiness, log }: { readonly readiness: Readiness; readonly log: Logger },
): Promise<RedirectBackend> {
  const options = { runDir, hostProcess: join(hostRoot, "proc/1"), log };
  try {
    return await chooseBackend({ ...options, variant });
  } catch (error) {
    if (!(error instanceof BackendError) || variant === "auto") throw error;
    readiness.miss("iptables", `${error.message}; what the host uses is used instead`);
    log.error({ err: error }, "cannot follow FORCE_IPTABLES_BINARY: what the host uses is used instead");
    return await chooseBackend({ ...options, variant: "auto" });
  }
}
