// SPDX-License-Identifier: Apache-2.0
// Which pod and containers a process belongs to, read from /proc/PID/cgroup. Pure.

/** The names found in a process' cgroup paths. */
export interface CgroupOwner {
  /** Pod UID without its separators, lower case; see `bareUid`. */
  readonly podUid: string | undefined;
  /** Full container ids, outermost first, without duplicates. */
  readonly containerIds: readonly string[];
}

/** A UID as it compares across cgroup drivers: systemd writes `_` where cgroupfs keeps `-`. */
export function bareUid(uid: string): string {
  return uid.replaceAll(/[-_]/g, "").toLowerCase();
}

/**
 * Reads the text of /proc/PID/cgroup. Known forms: `/kubepods/burstable/pod<uid>/<id>` (cgroupfs),
 * `/kubepods.slice/…/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope` (systemd), both nested below
 * other folders (kind), and `…pod<uid>.slice:cri-containerd:<id>`.
 * Source: kubernetes pkg/kubelet/cm/cgroup_manager_linux.go; containerd and CRI-O name the last part.
 */
export function parseCgroupOwner(text: string): CgroupOwner {
  // the innermost pod counts: a node in a container (kind) is itself below a pod of an outer cluster
  const uid = [...text.matchAll(/(?<=[/-])pod([0-9a-zA-Z][0-9a-zA-Z_-]*)(?=[./:\n]|$)/g)].at(-1)?.[1];
  const ids = [...text.matchAll(/(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/g)].map(([id]) => id);
  return { podUid: uid === undefined ? undefined : bareUid(uid), containerIds: [...new Set(ids)] };
}
