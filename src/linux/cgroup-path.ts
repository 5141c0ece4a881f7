// SPDX-License-Identifier: Apache-2.0
// Which pod and container a process belongs to, read from /proc/PID/cgroup from the node downwards. Pure.

/** Whose a process is, by its cgroup. */
export interface CgroupOwner {
  /** Pod UID without its separators, lower case; see `bareUid`. */
  readonly podUid: string | undefined;
  /** Full id of the container: of a pod's, the one right below the pod. */
  readonly containerId: string | undefined;
}

/** Where the node's own cgroups begin, as names from the root, by hierarchy; of one that is not in it nothing is known. */
export type NodeCgroup = ReadonlyMap<string, readonly string[]>;

const NOBODY: CgroupOwner = { podUid: undefined, containerId: undefined };
const CONTAINER_ID = /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/;
/** The kubelet's own folder for pods, or one for a quality of service below it. */
const PODS_FOLDER = /(?:^|-)kubepods(?:-burstable|-besteffort)?(?:\.slice)?$/;
/** A pod of the systemd driver; behind a colon where the runtime has another driver than the kubelet. */
const POD_SLICE = /(?:^|-)kubepods(?:-burstable|-besteffort)?-pod([0-9a-zA-Z_]+)\.slice(?::|$)/;
/** A pod of the cgroupfs driver; only below {@link PODS_FOLDER}, for others may call something so. */
const POD_FOLDER = /^pod([0-9a-zA-Z][0-9a-zA-Z_-]*)$/;
const QOS_FOLDER = /^(?:burstable|besteffort)$/;
/** What each user of the host makes for himself, and may name as he likes. Source: systemd user@.service, `Delegate=`. */
const USERS_FOLDER = "user.slice";
/** What a virtual machine needs besides its pod, by the sandbox's id: a process there is no container's. Source: kata-containers docs/design/host-cgroups.md. */
const OVERHEAD_FOLDER = /^kata_overhead(?:\.slice)?(?::|$)/;

/** A UID as it compares across cgroup drivers: systemd writes `_` where cgroupfs keeps `-`. */
export function bareUid(uid: string): string {
  return uid.replaceAll(/[-_]/g, "").toLowerCase();
}

/**
 * Where the node is, which itself may be a container (kind, k3d, minikube) or in a pod of another cluster: by the cgroup of the
 * reader where that is a pod's, else by that of the node's first process, which stands in a folder of its own (`init.scope`).
 * @param texts of /proc/PID/cgroup, as the same reader sees them
 */
export function nodeCgroup(texts: {
  readonly own?: string | undefined;
  readonly init?: string | undefined;
}): NodeCgroup {
  const node = new Map<string, readonly string[]>();
  for (const [hierarchy, names] of pathsOf(texts.init ?? ""))
    if (names[0] !== "..") node.set(hierarchy, names.slice(0, -1));
  for (const [hierarchy, names] of pathsOf(texts.own ?? "")) {
    // no process of ours makes cgroups: what stands innermost was made by the kubelet of this node
    const last = names.findLastIndex(isPods);
    if (last < 0) continue;
    const first = names.slice(0, last).findLastIndex((name) => !isPods(name)) + 1;
    node.set(hierarchy, names.slice(0, first));
  }
  return node;
}

/**
 * Reads the text of /proc/PID/cgroup. Known forms: `/kubepods/burstable/pod<uid>/<id>` (cgroupfs),
 * `/kubepods.slice/…/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope` (systemd), both nested below
 * other folders (kind), `…pod<uid>.slice:cri-containerd:<id>`, and each of them from a cgroup namespace, where it begins with as
 * many `..` as lead to what both are in, a reader's pods' folder for example.
 *
 * The first pod or container from the node downwards counts. What stands further in was named by whoever is in there.
 * Source: kubernetes pkg/kubelet/cm/cgroup_manager_linux.go; containerd and CRI-O name the last part; cgroup_namespaces(7).
 */
export function cgroupOwner(text: string, node: NodeCgroup = new Map()): CgroupOwner {
  let owner = NOBODY;
  for (const [hierarchy, names] of pathsOf(text)) {
    const found = ownerOf(below(node.get(hierarchy), names));
    if (found === NOBODY) continue;
    // no runtime puts a process into two pods
    if (owner.podUid !== undefined && found.podUid !== undefined && owner.podUid !== found.podUid)
      return NOBODY;
    if (owner === NOBODY || owner.podUid === undefined) owner = found;
  }
  return owner;
}

function ownerOf(names: readonly string[]): CgroupOwner {
  // from a cgroup namespace, the folder of pods may be what both are in
  let isBelowPods = names[0] === "..";
  for (const [index, name] of names.entries()) {
    if (name === USERS_FOLDER || OVERHEAD_FOLDER.test(name)) return NOBODY;
    const uid = POD_SLICE.exec(name)?.[1] ?? (isBelowPods ? POD_FOLDER.exec(name)?.[1] : undefined);
    if (uid !== undefined)
      return {
        podUid: bareUid(uid),
        containerId: (CONTAINER_ID.exec(name) ?? CONTAINER_ID.exec(names[index + 1] ?? ""))?.[0],
      };
    const containerId = CONTAINER_ID.exec(name)?.[0];
    if (containerId !== undefined) return { podUid: undefined, containerId };
    isBelowPods = name === ".." || PODS_FOLDER.test(name) || (isBelowPods && QOS_FOLDER.test(name));
  }
  return NOBODY;
}

/** The names below the node's own folder; all of them where it is not known, or not above. */
function below(folder: readonly string[] = [], names: readonly string[]): readonly string[] {
  return folder.every((name, index) => names[index] === name) ? names.slice(folder.length) : names;
}

function isPods(name: string): boolean {
  return PODS_FOLDER.test(name) || POD_SLICE.test(name);
}

/** Each hierarchy's names from the root. Source: cgroups(7), /proc/pid/cgroup: `id:controllers:path`, which may hold colons. */
function pathsOf(text: string): [hierarchy: string, names: string[]][] {
  return text.split("\n").flatMap((line): [string, string[]][] => {
    const [, hierarchy, path] = /^\d+:([^:]*):\/(.*)$/.exec(line) ?? [];
    if (hierarchy === undefined || path === undefined) return [];
    return [[hierarchy, path.split("/").filter((name) => name !== "")]];
  });
}
