// SPDX-License-Identifier: Apache-2.0
// The agent's look at itself and its node before it starts: what is missing is said once, by name and with the fix.

import { access, constants, readFile, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import type { AgentConfig } from "../config.ts";
import { holds, parseCapabilities } from "../linux/process-capabilities.ts";
import type { RedirectBackend } from "../netfilter/variant.ts";
import { type AccessReviewer, checkApiPermissions } from "./api-permissions.ts";
import { type Finding, failing, fine, guarded, warning } from "./finding.ts";
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
        : await checkApiPermissions(client, { repairMode: config.repair.mode, timeoutMs: apiTimeoutMs }),
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

/** What each is for. */
const NEEDED = [
  { name: "NET_ADMIN", use: "rules, routes and sets" },
  { name: "NET_RAW", use: "iptables" },
  { name: "SYS_ADMIN", use: "entering pods' network namespaces" },
  { name: "SYS_PTRACE", use: "finding pods' network namespaces in /proc" },
  { name: "DAC_OVERRIDE", use: "files of the runtime that belong to others" },
] as const;

/** Looks at CapEff in the text of /proc/PID/status. Pure. */
export function judgeCapabilities(status: string): Finding {
  const { effective } = parseCapabilities(status);
  const missing = NEEDED.filter(({ name }) => !holds(effective, name));
  if (missing.length === 0)
    return fine("capabilities", `all there: ${NEEDED.map(({ name }) => name).join(", ")}`);
  const list = missing.map(({ name, use }) => `${name} (${use})`).join(", ");
  const names = missing.map(({ name }) => name).join(", ");
  return failing(
    "capabilities",
    `missing: ${list}`,
    `add ${names} to securityContext.capabilities.add of the agent's container`,
  );
}

/** Of a process; default this one. */
export async function checkCapabilities(statusPath = "/proc/self/status"): Promise<Finding> {
  return judgeCapabilities(await readFile(statusPath, "utf8"));
}

/** A folder, and what it is for. */
export interface NamedFolder {
  readonly id: string;
  readonly path: string;
  readonly use: string;
  /** Setting that names it. */
  readonly setting: string;
  /** The agent makes it if it is not there, below a folder that is. */
  readonly isMade?: boolean;
}

const LOW_BYTES = 32 << 20;

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "there is no such folder: mount the node's folder there, or correct",
  ENOTDIR: "it is no folder: correct",
  EROFS: "it is on a read-only file system: mount it writable, or correct",
  EACCES: "permission denied: run as root with DAC_OVERRIDE, let SELinux or AppArmor permit it, or correct",
};

/** One finding for each folder. */
export async function checkFolder(folder: NamedFolder): Promise<Finding> {
  const { id, path, use, setting } = folder;
  try {
    if (!(await stat(path)).isDirectory()) throw Object.assign(new Error("no folder"), { code: "ENOTDIR" });
    await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && folder.isMade === true && dirname(path) !== path)
      return await checkFolder({ ...folder, path: dirname(path) });
    const fix = `${REMEDIES[code] ?? `${message}: correct`} ${setting}`;
    return failing(id, `${use} "${path}" cannot be used: ${code || message}`, fix);
  }
  return await room(folder);
}

async function room({ id, path, use, setting }: NamedFolder): Promise<Finding> {
  const { bsize, blocks, bavail, ffree, files } = await statfs(path);
  // a file system that counts nothing
  const free = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize;
  const remedy = "free space on the node's disk, or remove what fills it";
  if (free === 0) return failing(id, `${use} "${path}": the disk is full`, remedy);
  if (files > 0 && ffree === 0) return failing(id, `${use} "${path}": the disk has no inode left`, remedy);
  if (free < LOW_BYTES)
    return warning(id, `${use} "${path}": only ${Math.round(free / 1024)} KiB are left on the disk`, remedy);
  return fine(id, `${use} "${path}" can be written (${setting})`);
}
