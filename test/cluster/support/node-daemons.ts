// SPDX-License-Identifier: Apache-2.0
// The command lines and configuration files of the programs that make a machine a node.
import { mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { InsideNode } from "../../support/node/inside.ts";
import { boxImage } from "./box-image.ts";
import { nodeAddress } from "./node-places.ts";

/** Programs of a node, and the two of its control plane that work on pods. */
export type Daemon = "controller-manager" | "scheduler" | "containerd" | "kubelet";

/** Where the runtime looks for networks and plugins. */
export interface NetworkFolders {
  readonly netDir: string;
  readonly pluginDir: string;
}

/** Where containerd listens. */
export const runtimeSocket = "/run/containerd/containerd.sock";

const containerdConfigPath = (scratch: string): string => join(scratch, "containerd.toml");

/** Source: containerd docs/cri/config.md. */
export async function writeContainerdConfig(scratch: string, folders: NetworkFolders): Promise<void> {
  const text = `version = 2
root = "${scratch}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "${runtimeSocket}"
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
    bin_dir = "${folders.pluginDir}"
    conf_dir = "${folders.netDir}"
`;
  await writeFile(containerdConfigPath(scratch), text);
}

/** What the command lines are made from. */
export interface DaemonParts {
  readonly node: InsideNode;
  /** Folder with the programs of Kubernetes. */
  readonly binDir: string;
  readonly nodeName: string;
  readonly certificates: string;
  /** Path of the kubeconfig of a component. */
  readonly kubeconfigs: (client: string) => string;
}

/** The command line of each; writes the kubelet's configuration. */
export async function daemonCommands(parts: DaemonParts): Promise<ReadonlyMap<Daemon, readonly string[]>> {
  return new Map<Daemon, readonly string[]>([
    ["containerd", ["containerd", "--config", containerdConfigPath(parts.node.scratch)]],
    ["controller-manager", controllerManager(parts)],
    ["scheduler", scheduler(parts)],
    ["kubelet", await kubelet(parts)],
  ]);
}

function controllerManager({ binDir, certificates, kubeconfigs }: DaemonParts): readonly string[] {
  const own = kubeconfigs("controller-manager");
  return [
    join(binDir, "kube-controller-manager"),
    `--kubeconfig=${own}`,
    `--authentication-kubeconfig=${own}`,
    `--authorization-kubeconfig=${own}`,
    "--bind-address=127.0.0.1",
    "--leader-elect=false",
    "--use-service-account-credentials=true",
    `--service-account-private-key-file=${certificates}/sa.key`,
    `--root-ca-file=${certificates}/ca.crt`,
    `--cert-dir=${certificates}`,
  ];
}

function scheduler({ binDir, kubeconfigs }: DaemonParts): readonly string[] {
  const own = kubeconfigs("scheduler");
  return [
    join(binDir, "kube-scheduler"),
    `--kubeconfig=${own}`,
    `--authentication-kubeconfig=${own}`,
    `--authorization-kubeconfig=${own}`,
    "--bind-address=127.0.0.1",
    "--leader-elect=false",
  ];
}

/** Source: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/ */
async function kubelet(parts: DaemonParts): Promise<readonly string[]> {
  const { node, certificates } = parts;
  const { scratch } = node;
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
  return [
    join(parts.binDir, "kubelet"),
    `--config=${path}`,
    `--kubeconfig=${parts.kubeconfigs("kubelet")}`,
    `--hostname-override=${parts.nodeName}`,
    `--node-ip=${nodeAddress}`,
    `--root-dir=${scratch}/kubelet`,
    `--cert-dir=${scratch}/kubelet-pki`,
    `--volume-plugin-dir=${scratch}/volume-plugins`,
    "--container-runtime=remote",
    `--container-runtime-endpoint=unix://${runtimeSocket}`,
  ];
}
