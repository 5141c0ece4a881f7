// SPDX-License-Identifier: Apache-2.0
// Whether istio-cni's agent serves this node: ours does not come up beside it, unless it was told to take its place.
import { existsSync } from "node:fs";
import type { AgentConfig } from "../config.ts";
import { pluginType } from "../conflist/conflist-edit.ts";
import { standsForIstioCni } from "../install/chain-entry.ts";
import { launcherPath } from "../install/launcher-copy.ts";
import { whoServes } from "../uninstall/uninstall-calls.ts";

/**
 * Why to stand aside, while there is a reason. Names of sockets that are taken from a running istio-cni it never takes back: no pod of
 * the mesh would start while both run, nor once ours is gone again. Where our launcher is, ours was here first, and its entry may be in the chain.
 * Source: istio/istio cni/pkg/pluginlistener/listener.go, it listens once.
 */
export async function otherAgent(config: AgentConfig): Promise<string | undefined> {
  const { install, podName, pluginSocketPath } = config;
  if (install.replaceIstioCni || standsForIstioCni(podName)) return undefined;
  if (existsSync(launcherPath(install.binDir, pluginType))) return undefined;
  if ((await whoServes(pluginSocketPath)) !== "istio-cni") return undefined;
  return "istio-cni's agent serves this node, and a node has one agent: uninstall istio-cni (its DaemonSet istio-cni-node), or set REPLACE_ISTIO_CNI=true to take its place";
}
