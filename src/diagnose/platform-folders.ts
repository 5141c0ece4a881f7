// SPDX-License-Identifier: Apache-2.0
// Where Kubernetes distributions keep the CNI folders: found on the node, so that nobody has to know them by heart.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isConfName } from "../conflist/conf-text.ts";

/** A distribution's folders, as the host sees them. */
interface PlatformFolders {
  readonly platform: string;
  readonly netDir: string;
  readonly binDir: string;
  /** What to set instead of these folders. */
  readonly advice?: string;
}

/** Multus owns what is in its folders: our file goes beside. */
const byPlatform = "set global.platform=openshift in the chart, which lets Multus call the plugin";

/**
 * Source: istio.io ambient platform prerequisites; docs.k3s.io "Basic Network Options" (custom CNI); docs.rke2.io; microk8s.io
 * "Services and ports"; talos.dev; docs.openshift.com Multus; cloud.google.com GKE node images.
 */
const PLATFORM_FOLDERS: readonly PlatformFolders[] = [
  // RKE2 and Talos among them
  { platform: "most", netDir: "/etc/cni/net.d", binDir: "/opt/cni/bin" },
  {
    platform: "k3s",
    netDir: "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    binDir: "/var/lib/rancher/k3s/data/cni",
  },
  {
    platform: "k3s before 1.31",
    netDir: "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    binDir: "/var/lib/rancher/k3s/data/current/bin",
  },
  {
    platform: "microk8s",
    netDir: "/var/snap/microk8s/current/args/cni-network",
    binDir: "/var/snap/microk8s/current/opt/cni/bin",
  },
  {
    platform: "openshift",
    netDir: "/etc/kubernetes/cni/net.d",
    binDir: "/var/lib/cni/bin",
    advice: byPlatform,
  },
  {
    platform: "openshift with Multus",
    netDir: "/run/multus/cni/net.d",
    binDir: "/var/lib/cni/bin",
    advice: byPlatform,
  },
  { platform: "gke", netDir: "/etc/cni/net.d", binDir: "/home/kubernetes/bin" },
];

/** Folder pairs that are in use on the node: a configuration is in one and a program in the other. @param root where the host's files are seen */
export async function findPlatformFolders(root: string): Promise<PlatformFolders[]> {
  const namesIn = async (folder: string) => await readdir(join(root, folder)).catch((): string[] => []);
  const areUsed = await Promise.all(
    PLATFORM_FOLDERS.map(
      async ({ netDir, binDir }) =>
        (await namesIn(netDir)).some(isConfName) && (await namesIn(binDir)).length > 0,
    ),
  );
  return PLATFORM_FOLDERS.filter((_, index) => areUsed[index]);
}
