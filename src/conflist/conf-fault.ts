// SPDX-License-Identifier: Apache-2.0
// Turns a file system's refusal in the CNI folder into a sentence with the remedy.

const remedies: Readonly<Record<string, string>> = {
  ENOENT:
    "there is no such folder: mount the node's CNI configuration folder there, and check MOUNTED_CNI_NET_DIR",
  ENOTDIR: "it is no folder: check MOUNTED_CNI_NET_DIR",
  ESTALE:
    "the folder was removed on the node, and this container has the removed one mounted: delete this pod, its successor mounts the one that is there now",
  EROFS:
    "it is on a read-only file system: mount the node's CNI configuration folder without readOnly, and check that it is the one the runtime uses on this platform",
  ENOSPC: "the node's disk is full: free space on the file system of /etc/cni/net.d",
  EDQUOT: "the disk quota is used up: free space on the file system of /etc/cni/net.d",
  EACCES:
    "permission denied: run as root with DAC_OVERRIDE, and let SELinux or AppArmor permit writes to the folder",
  EPERM:
    "not permitted: the folder or a file in it may be immutable (lsattr), or SELinux or AppArmor forbids the write",
  EIO: "the node's disk reports an error: see the kernel's log",
};

/** One sentence for people. @param error from a call of node:fs */
export function folderFault(netDir: string, error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return `Cannot keep ambient-cni in the CNI chain in "${netDir}": ${remedies[code ?? ""] ?? message}`;
}
