// SPDX-License-Identifier: Apache-2.0
// The agent's look at itself and its node before it starts: what is missing is said once, by name and with the fix.
import { dirname } from "node:path";
import type { AgentConfig } from "../config.ts";
import type { RedirectBackend } from "../netfilter/variant.ts";
import { type AccessReviewer, checkApiPermissions } from "./api-permissions.ts";
import { checkCapabilities } from "./capabilities.ts";
import { type Finding, guarded } from "./finding.ts";
import { checkFolder, type NamedFolder } from "./folders.ts";
import { checkKernelFeatures } from "./kernel-features.ts";

/** What is tested. */
export interface SelfTestOptions {
  readonly config: Pick<
    AgentConfig,
    "runDir" | "ztunnelSocketPath" | "install" | "ipv6" | "probeSnatV4" | "probeSnatV6" | "repair"
  >;
  readonly backend: RedirectBackend;
  /** Asks for permissions; without one they are not asked for. */
  readonly client?: AccessReviewer | undefined;
  /** How long the API server may take; default 2 s. The rest takes about 0.1 s. */
  readonly apiTimeoutMs?: number;
  /** How long each program may take that tries rules; default 2 s. */
  readonly toolTimeoutMs?: number | undefined;
}

/**
 * Tests capabilities, kernel, folders and API permissions, all at once; changes nothing outside a namespace made for it.
 * Never rejects: a test that fails itself is a finding. Findings of level `fail` keep pods from being captured.
 */
export async function runSelfTest(options: SelfTestOptions): Promise<Finding[]> {
  const { config, backend, client, apiTimeoutMs, toolTimeoutMs } = options;
  const found = await Promise.all([
    guarded("capabilities", () => checkCapabilities()),
    guarded("kernel", () => checkKernelFeatures({ ...config, backend, toolTimeoutMs })),
    ...selfTestFolders(config).map((folder) => guarded(folder.id, () => checkFolder(folder))),
    guarded("api", async () =>
      client === undefined
        ? undefined
        : await checkApiPermissions(client, {
            repairMode: config.repair.mode,
            ...(apiTimeoutMs === undefined ? {} : { timeoutMs: apiTimeoutMs }),
          }),
    ),
  ]);
  return found.flat();
}

/** The folders that the agent writes in. */
export function selfTestFolders(
  config: Pick<AgentConfig, "runDir" | "ztunnelSocketPath" | "install">,
): NamedFolder[] {
  const { runDir, ztunnelSocketPath, install } = config;
  const own: NamedFolder[] = [
    { id: "run-dir", path: runDir, use: "run dir", setting: "CNI_AGENT_RUN_DIR", isMade: true },
    {
      id: "ztunnel-dir",
      path: dirname(ztunnelSocketPath),
      use: "folder of ztunnel's socket",
      setting: "ZTUNNEL_UDS_ADDRESS",
      isMade: true,
    },
  ];
  if (!install.enabled) return own;
  return [
    ...own,
    {
      id: "cni-net-dir",
      path: install.netDir,
      use: "CNI configuration folder",
      setting: "MOUNTED_CNI_NET_DIR",
    },
    { id: "cni-bin-dir", path: install.binDir, use: "CNI plugin folder", setting: "MOUNTED_CNI_BIN_DIR" },
  ];
}
