// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { bareUid, cgroupOwner, nodeCgroup } from "../../src/linux/cgroup-path.ts";

const uid = "11111111-2222-3333-4444-555555555555";
const underscored = uid.replaceAll("-", "_");
const outer = "99999999-0000-0000-0000-000000000000";
const sandbox = "a".repeat(64);
const app = "0123456789abcdef".repeat(4);

interface Row {
  readonly text: string;
  /** Of the node's first process, as the same reader sees it. */
  readonly init?: string;
  readonly own?: string;
  readonly id?: string;
}

const systemd = `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${underscored}.slice`;

const owned: readonly [string, Row][] = [
  ["cgroupfs", { text: `9:name=systemd:/kubepods/burstable/pod${uid}/${sandbox}\n` }],
  ["cgroup v2 with cgroupfs", { text: `0::/kubepods/besteffort/pod${uid}/${sandbox}` }],
  ["guaranteed", { text: `0::/kubepods/pod${uid}/${sandbox}` }],
  ["systemd", { text: `0::${systemd}/cri-containerd-${sandbox}.scope`, init: "0::/init.scope" }],
  ["CRI-O", { text: `0::/kubepods.slice/kubepods-pod${underscored}.slice/crio-${sandbox}.scope/container` }],
  [
    "kind",
    {
      text: `0::/docker/${app}/kubelet/kubepods/burstable/pod${uid}/${sandbox}`,
      init: `0::/docker/${app}/init.scope`,
    },
  ],
  [
    "kind with systemd's driver",
    {
      text: `0::/docker/${app}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod${underscored}.slice/cri-containerd-${sandbox}.scope`,
      init: `0::/docker/${app}/init.scope`,
    },
  ],
  [
    "k3d, whose first process stands in init",
    { text: `0::/docker/${app}/kubepods/pod${uid}/${sandbox}`, init: `0::/docker/${app}/init` },
  ],
  [
    "a runtime without the kubelet's driver",
    { text: `1:cpu:/kubepods-burstable-pod${underscored}.slice:cri-containerd:${sandbox}` },
  ],
  [
    "the same below the runtime's service",
    {
      text: `1:cpu:/system.slice/containerd.service/kubepods-burstable-pod${underscored}.slice:cri-containerd:${sandbox}`,
    },
  ],
  ["a folder of ours above", { text: `8:pids:/node-7/kubepods/burstable/pod${uid}/${sandbox}` }],
  [
    "a node that is a pod of another cluster",
    {
      text: `0::/kubepods/pod${outer}/${app}/kubepods/burstable/pod${uid}/${sandbox}`,
      init: `0::/kubepods/pod${outer}/${app}/init.scope`,
    },
  ],
  [
    "the same, by the reader's own cgroup",
    {
      text: `0::/kubepods/pod${outer}/${app}/kubepods/burstable/pod${uid}/${sandbox}`,
      own: `0::/kubepods/pod${outer}/${app}/kubepods/pod${"3".repeat(32)}/${"3".repeat(64)}`,
    },
  ],
  ["a cgroup namespace, same quality of service", { text: `0::/../../pod${uid}/${sandbox}` }],
  ["a cgroup namespace, another one", { text: `0::/../../../besteffort/pod${uid}/${sandbox}`, own: "0::/" }],
  [
    "a cgroup namespace, systemd",
    {
      text: `0::/../../../kubepods-besteffort.slice/kubepods-besteffort-pod${underscored}.slice/cri-containerd-${sandbox}.scope`,
      init: "0::/../../../../init.scope",
      own: "0::/",
    },
  ],
  [
    "several hierarchies of which some say nothing",
    { text: `3:cpuset:/\n2:cpu:/kubepods/pod${uid}/${sandbox}\n0::/system.slice/containerd.service\n` },
  ],
];

test.each(owned)("cgroupOwner finds pod and container in a path of %s", (_name, { text, init, own }) => {
  expect(cgroupOwner(text, nodeCgroup({ own, init }))).toEqual({
    podUid: bareUid(uid),
    containerId: sandbox,
  });
});

test("cgroupOwner finds the 32 digits of a static pod", () => {
  const hash = "0123456789abcdef0123456789abcdef";
  expect(cgroupOwner(`0::/kubepods/burstable/pod${hash}/${sandbox}`).podUid).toBe(hash);
});

test.each([
  ["a container without a pod", `0::/machine.slice/crio-${sandbox}.scope`, undefined],
  [
    "one of a node that is a container",
    `0::/docker/${app}/system.slice/${sandbox}`,
    `0::/docker/${app}/init`,
  ],
  ["what it made below itself", `0::/k8s.io/${sandbox}/kubepods/pod${uid}/${app}`, undefined],
])("cgroupOwner finds the container alone of %s", (_name, text, init) => {
  expect(cgroupOwner(text, nodeCgroup({ init }))).toEqual({ podUid: undefined, containerId: sandbox });
});

test.each([
  "",
  "0::/\n",
  "0::/system.slice/sshd.service",
  "0::/kubepods/burstable",
  "0::/podruntime/kubelet",
  `0::/system.slice/pod${uid}`,
  `0::/../../system.slice/pod${uid}`,
  `0::/kata_overhead/${sandbox}`,
  `0::/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod${underscored}.slice`,
  `0::/../../../../user.slice/user-1000.slice/user@1000.service/kubepods/pod${uid}/${sandbox}`,
  `2:cpu:/kubepods/pod${uid}/${sandbox}\n1:pids:/kubepods/pod${outer}/${app}`,
])("cgroupOwner finds nobody in %j", (text) => {
  expect(cgroupOwner(text)).toEqual({ podUid: undefined, containerId: undefined });
});

describe("what a pod makes below its own cgroup", () => {
  const evil = "66666666-6666-6666-6666-666666666666";
  const own = "6".repeat(64);
  const names = [
    `pod${uid}`,
    `x/pod${uid}/${sandbox}`,
    `kubepods/burstable/pod${uid}/${sandbox}`,
    systemd.slice(1),
    `kubepods-pod${underscored}.slice:cri-containerd:${sandbox}`,
    sandbox,
    `cri-containerd-${sandbox}.scope`,
    `user.slice/pod${uid}`,
    `init.scope/kubepods/pod${uid}`,
  ];
  const parents: readonly [string, string, string | undefined][] = [
    ["cgroupfs", `/kubepods/burstable/pod${evil}/${own}`, undefined],
    [
      "systemd",
      `/kubepods.slice/kubepods-pod${evil.replaceAll("-", "_")}.slice/crio-${own}.scope`,
      undefined,
    ],
    ["kind", `/docker/${app}/kubelet/kubepods/pod${evil}/${own}`, `0::/docker/${app}/init.scope`],
    ["a cgroup namespace", `/../../pod${evil}/${own}`, "0::/../../../../init.scope"],
  ];
  test.each(parents)("does not change whose its processes are: %s", (_name, parent, init) => {
    for (const name of names) {
      expect(cgroupOwner(`0::${parent}/${name}`, nodeCgroup({ init })), name).toEqual({
        podUid: bareUid(evil),
        containerId: own,
      });
    }
  });
  test("where its path has no container, gives it at most a container of its own", () => {
    for (const name of names)
      expect(cgroupOwner(`0::/kubepods/pod${evil}/${name}`).podUid, name).toBe(bareUid(evil));
  });
});
