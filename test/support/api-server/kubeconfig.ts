// SPDX-License-Identifier: Apache-2.0
// A kubeconfig for the stub API server.
import { writeFileSync } from "node:fs";

/**
 * The text of a kubeconfig.
 * `insecure-skip-tls-verify` is what @kubernetes/client-node asks for before it talks plain HTTP.
 */
export function kubeconfigText(
  url: string,
  credentials: { token?: string; tokenFile?: string } = {},
): string {
  return `${JSON.stringify(
    {
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "stub", cluster: { server: url, "insecure-skip-tls-verify": true } }],
      users: [{ name: "agent", user: credentials }],
      contexts: [{ name: "stub", context: { cluster: "stub", user: "agent" } }],
      "current-context": "stub",
    },
    null,
    2,
  )}\n`;
}

/** Writes a kubeconfig file (mode 0600) and returns its path. */
export function writeKubeconfig(
  path: string,
  url: string,
  credentials: { token?: string; tokenFile?: string } = {},
): string {
  writeFileSync(path, kubeconfigText(url, credentials), { mode: 0o600 });
  return path;
}
