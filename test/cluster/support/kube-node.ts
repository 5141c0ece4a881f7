// SPDX-License-Identifier: Apache-2.0
// A whole Kubernetes of one node inside a test node: control plane, containerd with a chain of plugins, kubelet.
import { mkdir, readdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ambientPlugin, bridgeConflist, type PluginConfig } from "../../support/node/conflist.ts";
import type { InsideNode } from "../../support/node/inside.ts";
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { PLUGIN_DIR } from "../../support/node/mesh-node.ts";
import { cleanEnv, type RunResult, run } from "../../support/node/run.ts";
import { makeBoxImage } from "./box-image.ts";
import { clients, kubeconfigFor } from "./certificates.ts";
import { apiPort, ControlPlane } from "./control-plane.ts";
import type { KubeAdmin } from "./kube-admin.ts";
import {
  type Daemon,
  daemonCommands,
  type NetworkFolders,
  runtimeSocket,
  writeContainerdConfig,
} from "./node-daemons.ts";
import { makeCommonFolders, makeNodePlaces, nodeAddress } from "./node-places.ts";

/** Name of the node. */
export const nodeName = "node-1";

/** How a {@link KubeNode} is made. */
export interface KubeNodeOptions {
  /**
   * `prepared`: our launcher is in the chain already, in folders of the test's own. `bare`: a node as its owner made it, whose
   * folders are the ones that all the world uses. Default `prepared`.
   */
  readonly network?: "prepared" | "bare";
}

/** A cluster of one node. Ends with the test node. */
export class KubeNode {
  readonly plane: ControlPlane;
  readonly admin: KubeAdmin;
  /** Manifests in it become static pods. */
  readonly manifestFolder: string;
  /** The runtime's folder of network configurations. */
  readonly netDir: string;
  /** The runtime's folder of plugins. */
  readonly pluginDir: string;
  readonly #scratch: string;
  readonly #binDir: string;
  readonly #commands: ReadonlyMap<Daemon, readonly string[]>;
  readonly #daemons = new Map<Daemon, ManagedProcess>();

  private constructor(parts: {
    plane: ControlPlane;
    scratch: string;
    binDir: string;
    folders: NetworkFolders;
    commands: ReadonlyMap<Daemon, readonly string[]>;
  }) {
    this.plane = parts.plane;
    this.admin = parts.plane.admin;
    this.netDir = parts.folders.netDir;
    this.pluginDir = parts.folders.pluginDir;
    this.#scratch = parts.scratch;
    this.#binDir = parts.binDir;
    this.#commands = parts.commands;
    this.manifestFolder = join(parts.scratch, "manifests");
  }

  /** Starts everything; resolves when the node is ready and pods can be made. */
  static async start(
    node: InsideNode,
    binDir: string,
    { network = "prepared" }: KubeNodeOptions = {},
  ): Promise<KubeNode> {
    const { scratch } = node;
    await makeNodePlaces(scratch);
    const folders = network === "bare" ? await makeBareNetwork(scratch) : await makePreparedNetwork(scratch);
    const planeStart = ControlPlane.start({ binDir, scratch, nodeName, nodeAddress, serviceAccounts: true });
    const image = makeBox(scratch);
    await writeContainerdConfig(scratch, folders);
    const plane = await planeStart;
    const kubeconfigs = await writeKubeconfigs(scratch, plane);
    const commands = await daemonCommands({
      node,
      binDir,
      nodeName,
      certificates: plane.certificates,
      kubeconfigs,
    });
    const kube = new KubeNode({ plane, scratch, binDir, folders, commands });
    await kube.startDaemon("containerd");
    await kube.importImage(await image);
    for (const name of ["controller-manager", "scheduler", "kubelet"] as const) await kube.startDaemon(name);
    await kube.untilReady();
    const account = "/api/v1/namespaces/default/serviceaccounts/default";
    await plane.admin.until(account, (found) => (found.secrets ?? []).length > 0);
    return kube;
  }

  /** One of the node's daemons, for its log. */
  daemon(name: Daemon): ManagedProcess {
    const found = this.#daemons.get(name);
    if (found === undefined) throw new Error(`no ${name} was started`);
    return found;
  }

  /** Starts a daemon (again); containerd answers when this resolves. */
  async startDaemon(name: Daemon): Promise<void> {
    const argv = this.#commands.get(name) ?? [];
    // names of host and queue are a daemon's own too
    const daemon = new ManagedProcess(["unshare", "--uts", "--ipc", "--", ...argv], { name });
    this.#daemons.set(name, daemon);
    if (name !== "containerd") return;
    const answers = async () => (await this.ctr(["version"], { mayFail: true })).code === 0;
    await daemon.until("to answer", answers, { timeoutMs: 20_000, intervalMs: 50 });
  }

  /** Ends a daemon the hard way; what it started lives on. */
  async killDaemon(name: Daemon): Promise<void> {
    await this.daemon(name).kill();
  }

  /** Waits until the API server says that the node is ready. */
  async untilReady(): Promise<void> {
    await this.daemon("kubelet").until("the node to be ready", () => isReady(this.admin), {
      timeoutMs: 90_000,
      intervalMs: 100,
    });
  }

  /** Runs containerd's own client in the namespace in which its CRI service looks. */
  ctr(args: readonly string[], options: { mayFail?: boolean; timeoutMs?: number } = {}): Promise<RunResult> {
    return run(["ctr", "--address", runtimeSocket, "--namespace", "k8s.io", ...args], options);
  }

  /** Gives the runtime the images of an archive. */
  async importImage(archive: string): Promise<void> {
    await this.ctr(["images", "import", archive], { timeoutMs: 60_000 });
  }

  /** Runs kubectl with the rights of an administrator. */
  kubectl(args: readonly string[], options: { stdin?: string; mayFail?: boolean } = {}): Promise<RunResult> {
    const kubeconfig = join(this.#scratch, "kubeconfig-admin");
    // it keeps what it learns about the API below HOME
    const env = cleanEnv({ HOME: this.#scratch });
    return run([join(this.#binDir, "kubectl"), `--kubeconfig=${kubeconfig}`, ...args], {
      ...options,
      env,
      timeoutMs: 60_000,
    });
  }

  /** Runs a line of a shell as an operator types it: kubectl is found and asks this cluster. */
  shell(line: string): Promise<RunResult> {
    const env = cleanEnv({ HOME: this.#scratch, KUBECONFIG: join(this.#scratch, "kubeconfig-admin") });
    const PATH = `${this.#binDir}:${env.PATH ?? ""}`;
    return run(["/bin/sh", "-c", line], { env: { ...env, PATH }, timeoutMs: 60_000 });
  }

  /** A kubeconfig for the holder of a token; returns its path. */
  async tokenKubeconfig(token: string): Promise<string> {
    const tokenFile = join(this.#scratch, "agent-token");
    await writeFile(tokenFile, token);
    const text = await kubeconfigFor(this.plane.certificates, {
      url: `https://127.0.0.1:${apiPort}`,
      user: { tokenFile },
    });
    const path = join(this.#scratch, "agent-kubeconfig");
    await writeFile(path, text);
    return path;
  }
}

async function isReady(admin: KubeAdmin): Promise<boolean> {
  const { conditions } = (await admin.get(`/api/v1/nodes/${nodeName}`)).status;
  return conditions.some(
    (one: { type: string; status: string }) => one.type === "Ready" && one.status === "True",
  );
}

/** Debian's plugins under one folder, and a chain of bridge, portmap and our launcher. */
async function makePreparedNetwork(scratch: string): Promise<NetworkFolders> {
  const folders = { netDir: join(scratch, "net.d"), pluginDir: join(scratch, "cni-bin") };
  await mkdir(folders.netDir);
  await mkdir(folders.pluginDir);
  await symlink(join(PLUGIN_DIR, "ambient-cni"), join(folders.pluginDir, "ambient-cni"));
  await writeNetwork(scratch, folders, [ambientPlugin({ agentWaitSeconds: 3 })]);
  return folders;
}

/** A chain of bridge and portmap, and nothing of ours. */
async function makeBareNetwork(scratch: string): Promise<NetworkFolders> {
  const folders = { netDir: "/etc/cni/net.d", pluginDir: "/opt/cni/bin" };
  await makeCommonFolders(scratch);
  for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true });
  await writeNetwork(scratch, folders, []);
  return folders;
}

async function writeNetwork(
  scratch: string,
  folders: NetworkFolders,
  more: readonly PluginConfig[],
): Promise<void> {
  for (const name of await readdir("/usr/lib/cni")) {
    await symlink(join("/usr/lib/cni", name), join(folders.pluginDir, name));
  }
  const network = bridgeConflist({
    leaseDir: join(scratch, "ipam"),
    chained: [{ type: "portmap", capabilities: { portMappings: true } }, ...more],
  });
  await writeFile(join(folders.netDir, "10-podnet.conflist"), JSON.stringify(network));
}

async function makeBox(scratch: string): Promise<string> {
  const folder = join(scratch, "image");
  await mkdir(folder);
  return makeBoxImage(folder);
}

async function writeKubeconfigs(scratch: string, plane: ControlPlane): Promise<(client: string) => string> {
  const path = (client: string) => join(scratch, `kubeconfig-${client}`);
  for (const client of [...Object.keys(clients), "kubelet"]) {
    const url = `https://127.0.0.1:${apiPort}`;
    await writeFile(path(client), await kubeconfigFor(plane.certificates, { url, user: { client } }));
  }
  return path;
}
