// SPDX-License-Identifier: Apache-2.0
// What a command of the agent's (verify, status, debug, uninstall) has to know of the test's node.

/** As `kubectl exec` into the agent's pod would find it; the installer is off, as for the node's agent. */
export const commandEnv = {
  HOST_ROOT: "/",
  CNI_AGENT_RUN_DIR: "/var/run/istio-cni",
  MOUNTED_CNI_NET_DIR: "/run/node/net.d",
  INSTALL_CNI_PLUGIN: "false",
  KUBECONFIG: "/run/node/kubeconfig",
} as const;
