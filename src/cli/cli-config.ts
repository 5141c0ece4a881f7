// SPDX-License-Identifier: Apache-2.0
// The agent's settings as a command sees them: in the agent's container, or straight on a node.
import { existsSync } from "node:fs";
import { type AgentConfig, loadConfig, processConfigSource } from "../config.ts";
import type { Settings } from "../settings/settings-reader.ts";

/** Below it the agent's container has the host's /proc. */
const CONTAINER_HOST_ROOT = "/host";

/** Reads the settings. Without HOST_ROOT a command on a node, where there is no /host, takes "/". */
export function loadCliConfig(
  env: Settings = processConfigSource([]).env,
  isContainer: () => boolean = () => existsSync(`${CONTAINER_HOST_ROOT}/proc/1`),
): AgentConfig {
  const hasRoot = (env.HOST_ROOT ?? "") !== "" || isContainer();
  return loadConfig({ env: hasRoot ? env : { ...env, HOST_ROOT: "/" }, args: [] });
}
