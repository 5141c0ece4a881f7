// SPDX-License-Identifier: Apache-2.0
// Whether istio-cni's agent serves this node: ours does not come up beside it, unless it was told to take its place.
import { existsSync } from "node:fs";
import { request } from "node:http";
import type { AgentConfig } from "../config.ts";
import { pluginType } from "../conflist/conflist-edit.ts";
import { standsForIstioCni } from "../install/chain-entry.ts";
import { launcherPath } from "../install/launcher-copy.ts";

const answerMs = 1_000;

/**
 * Why to stand aside, while there is a reason. Names of sockets that are taken from a running istio-cni it never takes back: no pod of
 * the mesh would start while both run, nor once ours is gone again. Where our launcher is, ours was here first, and its entry may be in the chain.
 * Source: istio/istio cni/pkg/pluginlistener/listener.go, it listens once.
 */
export async function otherAgent(config: AgentConfig): Promise<string | undefined> {
  const { install, podName, pluginSocketPath } = config;
  if (install.replaceIstioCni || standsForIstioCni(podName)) return undefined;
  if (existsSync(launcherPath(install.binDir, pluginType))) return undefined;
  if ((await statusOfCni(pluginSocketPath)) !== 404) return undefined;
  return "istio-cni's agent serves this node, and a node has one agent: uninstall istio-cni (its DaemonSet istio-cni-node), or set REPLACE_ISTIO_CNI=true to take its place";
}

/** What whoever has the socket says to a call of our launcher's; istio-cni's agent knows no such path. Undefined: no answer. */
function statusOfCni(socketPath: string): Promise<number | undefined> {
  return new Promise((resolve) => {
    const signal = AbortSignal.timeout(answerMs);
    const call = request({ socketPath, path: "/cni", method: "POST", agent: false, signal }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    call.on("error", () => resolve(undefined));
    call.end();
  });
}
