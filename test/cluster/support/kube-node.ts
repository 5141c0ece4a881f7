// SPDX-License-Identifier: Apache-2.0
// A whole Kubernetes of one node inside a test node: control plane, containerd with our launcher in its chain, kubelet.
import { mkdir, readdir, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { ambientPlugin, bridgeConflist } from "../../support/node/conflist.ts";
import type { InsideNode } from "../../support/node/inside.ts";
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { PLUGIN_DIR } from "../../support/node/mesh-node.ts";
import { run } from "../../support/node/run.ts";
import { boxImage, makeBoxImage } from "./box-image.ts";
import { clients, kubeconfigFor } from "./certificates.ts";
import { apiPort, ControlPlane } from "./control-plane.ts";
import type { KubeAdmin } from "./kube-admin.ts";
import { makeNodePlaces, nodeAddress } from "./node-places.ts";

/** Name of the node. */
export const nodeName = "node-1";

type Daemon = "controller-manager" | "scheduler" | "containerd" | "kubelet";

/** A cluster of one node. Ends with the test node. */
export class KubeNode {
  readonly plane: ControlPlane;
  readonly admin: KubeAdmin;
  /** Manifests in it become static pods. */
  readonly manifestFolder: string;
  readonly #daemons: ReadonlyMap<Daemon, ManagedProcess>;
  readonly #scratch: string;

  private constructor(parts: {
    plane: ControlPlane;
    daemons: ReadonlyMap<Daemon, ManagedProcess>;
    scratch: string;
  }) {
    this.plane = parts.plane;
    this.admin = parts.plane.admin;
    this.#daemons = parts.daemons;
    this.#scratch = parts.scratch;
    this.manifestFolder = join(parts.scratch, "manifests");
  }

  /** Starts everything; resolves when the node is ready and pods can be made. */
  static async start(node: InsideNode, binDir: string): Promise<KubeNode> {
    const { scratch } = node;
    await makeNodePlaces(scratch);
    await writeNetwork(scratch);
    const [containerd, plane] = await Promise.all([
      startContainerd(scratch),
      ControlPlane.start({ binDir, scratch, nodeName, nodeAddress, serviceAccounts: true }),
    ]);
    const daemons = new Map<Daemon, ManagedProcess>([["containerd", containerd]]);
    const kubeconfigs = await writeKubeconfigs(scratch, plane);
    daemons.set("controller-manager", startControllerManager(binDir, plane, kubeconfigs));
    daemons.set("scheduler", startScheduler(binDir, kubeconfigs));
    const kubelet = await startKubelet(node, { binDir, plane, kubeconfigs });
    daemons.set("kubelet", kubelet);
    await kubelet.until("the node to be ready", () => isReady(plane.admin), {
      timeoutMs: 90_000,
      intervalMs: 100,
    });
    const account = "/api/v1/namespaces/default/serviceaccounts/default";
    await plane.admin.until(account, (found) => (found.secrets ?? []).length > 0);
    return new KubeNode({ plane, daemons, scratch });
  }

  /** One of the node's daemons, for its log. */
  daemon(name: Daemon): ManagedProcess {
    const found = this.#daemons.get(name);
    if (found === undefined) throw new Error(`no ${name} was started`);
    return found;
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

/** Names of host and queue are a daemon's own too. */
function startDaemon(name: Daemon, argv: readonly string[]): ManagedProcess {
  return new ManagedProcess(["unshare", "--uts", "--ipc", "--", ...argv], { name });
}

/** The plugins under one folder, and a chain of bridge, portmap and our launcher. */
async function writeNetwork(scratch: string): Promise<void> {
  const plugins = join(scratch, "cni-bin");
  await mkdir(plugins);
  for (const name of await readdir("/usr/lib/cni")) {
    await symlink(join("/usr/lib/cni", name), join(plugins, name));
  }
  await symlink(join(PLUGIN_DIR, "ambient-cni"), join(plugins, "ambient-cni"));
  const network = bridgeConflist({
    leaseDir: join(scratch, "ipam"),
    chained: [
      { type: "portmap", capabilities: { portMappings: true } },
      ambientPlugin({ agentWaitSeconds: 3 }),
    ],
  });
  await mkdir(join(scratch, "net.d"));
  await writeFile(join(scratch, "net.d/10-podnet.conflist"), JSON.stringify(network));
}

/** Source: containerd docs/cri/config.md. */
function containerdConfig(scratch: string): string {
  return `version = 2
root = "${scratch}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "${scratch}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${boxImage}"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  # root in a container may lack CAP_SYS_RESOURCE
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${scratch}/cni-bin"
    conf_dir = "${scratch}/net.d"
`;
}

async function startContainerd(scratch: string): Promise<ManagedProcess> {
  const path = join(scratch, "containerd.toml");
  await writeFile(path, containerdConfig(scratch));
  const containerd = startDaemon("containerd", ["containerd", "--config", path]);
  const ctr = ["ctr", "--address", "/run/containerd/containerd.sock"];
  await containerd.until(
    "to answer",
    async () => (await run([...ctr, "version"], { mayFail: true })).code === 0,
    {
      timeoutMs: 20_000,
      intervalMs: 50,
    },
  );
  const folder = join(scratch, "image");
  await mkdir(folder);
  // the namespace in which containerd's CRI service looks
  await run([...ctr, "--namespace", "k8s.io", "images", "import", await makeBoxImage(folder)], {
    timeoutMs: 30_000,
  });
  return containerd;
}

async function writeKubeconfigs(scratch: string, plane: ControlPlane): Promise<(client: string) => string> {
  const path = (client: string) => join(scratch, `kubeconfig-${client}`);
  for (const client of [...Object.keys(clients), "kubelet"]) {
    const url = `https://127.0.0.1:${apiPort}`;
    await writeFile(path(client), await kubeconfigFor(plane.certificates, { url, user: { client } }));
  }
  return path;
}

function startControllerManager(
  binDir: string,
  plane: ControlPlane,
  kubeconfig: (client: string) => string,
): ManagedProcess {
  const own = kubeconfig("controller-manager");
  return startDaemon("controller-manager", [
    join(binDir, "kube-controller-manager"),
    `--kubeconfig=${own}`,
    `--authentication-kubeconfig=${own}`,
    `--authorization-kubeconfig=${own}`,
    "--bind-address=127.0.0.1",
    "--leader-elect=false",
    "--use-service-account-credentials=true",
    `--service-account-private-key-file=${plane.certificates}/sa.key`,
    `--root-ca-file=${plane.certificates}/ca.crt`,
    `--cert-dir=${plane.certificates}`,
  ]);
}

function startScheduler(binDir: string, kubeconfig: (client: string) => string): ManagedProcess {
  const own = kubeconfig("scheduler");
  return startDaemon("scheduler", [
    join(binDir, "kube-scheduler"),
    `--kubeconfig=${own}`,
    `--authentication-kubeconfig=${own}`,
    `--authorization-kubeconfig=${own}`,
    "--bind-address=127.0.0.1",
    "--leader-elect=false",
  ]);
}

/** Source: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/ */
async function startKubelet(
  node: InsideNode,
  parts: { binDir: string; plane: ControlPlane; kubeconfigs: (client: string) => string },
): Promise<ManagedProcess> {
  const { scratch } = node;
  const { certificates } = parts.plane;
  const manifests = join(scratch, "manifests");
  await mkdir(manifests);
  const config = {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    cgroupDriver: "cgroupfs",
    cgroupRoot: `/${basename(node.cgroupFolder)}`,
    cgroupsPerQOS: true,
    enforceNodeAllocatable: ["pods"],
    failSwapOn: false,
    resolvConf: "",
    clusterDomain: "cluster.local",
    tlsCertFile: join(certificates, "kubelet-server.crt"),
    tlsPrivateKeyFile: join(certificates, "kubelet-server.key"),
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: join(certificates, "ca.crt") },
    },
    authorization: { mode: "Webhook" },
    imageGCHighThresholdPercent: 100,
    evictionHard: { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    staticPodPath: manifests,
    fileCheckFrequency: "1s",
    syncFrequency: "5s",
    nodeStatusUpdateFrequency: "2s",
  };
  const path = join(scratch, "kubelet.json");
  await writeFile(path, JSON.stringify(config));
  return startDaemon("kubelet", [
    join(parts.binDir, "kubelet"),
    `--config=${path}`,
    `--kubeconfig=${parts.kubeconfigs("kubelet")}`,
    `--hostname-override=${nodeName}`,
    `--node-ip=${nodeAddress}`,
    `--root-dir=${scratch}/kubelet`,
    `--cert-dir=${scratch}/kubelet-pki`,
    `--volume-plugin-dir=${scratch}/volume-plugins`,
    "--container-runtime=remote",
    "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
  ]);
}
