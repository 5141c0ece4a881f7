// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { bareUid, parseCgroupOwner } from "../../src/linux/cgroup-path.ts";

const uid = "11111111-2222-3333-4444-555555555555";
const underscored = uid.replaceAll("-", "_");
const sandbox = "a".repeat(64);
const app = "0123456789abcdef".repeat(4);

const owned: readonly [string, string, string[]][] = [
  ["cgroupfs", `9:name=systemd:/kubepods/burstable/pod${uid}/${sandbox}\n`, [sandbox]],
  ["cgroup v2 with cgroupfs", `0::/kubepods/besteffort/pod${uid}/${app}`, [app]],
  ["guaranteed", `0::/kubepods/pod${uid}/${sandbox}`, [sandbox]],
  [
    "systemd",
    `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${underscored}.slice/cri-containerd-${sandbox}.scope`,
    [sandbox],
  ],
  ["CRI-O", `0::/kubepods.slice/kubepods-pod${underscored}.slice/crio-${sandbox}.scope/container`, [sandbox]],
  [
    "kind, nested in another cgroup",
    `0::/docker/${app}/kubelet/kubepods/burstable/pod${uid}/${sandbox}`,
    [app, sandbox],
  ],
  [
    "the flat form of containerd",
    `1:cpu:/kubepods-burstable-pod${underscored}.slice:cri-containerd:${sandbox}`,
    [sandbox],
  ],
  ["a folder of ours above", `8:pids:/node-7/kubepods/burstable/pod${uid}/${sandbox}`, [sandbox]],
  [
    "a cluster inside a pod: the inner pod counts",
    `0::/kubepods/pod99999999-0000-0000-0000-000000000000/${app}/kubepods/burstable/pod${uid}/${sandbox}`,
    [app, sandbox],
  ],
];

test.each(owned)("parseCgroupOwner finds pod and container in a path of %s", (_name, text, ids) => {
  expect(parseCgroupOwner(text)).toEqual({ podUid: bareUid(uid), containerIds: ids });
});

test("parseCgroupOwner finds the 32 digits of a static pod", () => {
  const hash = "0123456789abcdef0123456789abcdef";
  expect(parseCgroupOwner(`0::/kubepods/burstable/pod${hash}/${sandbox}`).podUid).toBe(hash);
});

test.each(["", "0::/\n", "0::/system.slice/sshd.service", "0::/kubepods/burstable"])(
  "parseCgroupOwner finds no pod in %j",
  (text) => {
    expect(parseCgroupOwner(text).podUid).toBeUndefined();
  },
);
