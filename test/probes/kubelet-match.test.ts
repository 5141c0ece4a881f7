// SPDX-License-Identifier: Apache-2.0
// Finding the kubelet in a made-up /proc, and what its connections are matched by.
import { mkdirSync, mkdtempSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { KubeletMatch, unifiedPath } from "../../src/probes/kubelet-match.ts";

let procRoot: string;
let warnings: string[];
let hostKey: string;

beforeEach(() => {
  procRoot = mkdtempSync(join(tmpdir(), "ambient-proc-"));
  warnings = [];
  const { dev, ino } = statSync("/proc/self/ns/net", { bigint: true });
  hostKey = `${dev}:${ino}`;
  addProcess(1, { comm: "systemd", cgroup: "0::/init.scope" });
});
afterEach(() => rmSync(procRoot, { recursive: true }));

interface FakeProcess {
  readonly comm: string;
  readonly cgroup: string;
  readonly startTime?: number;
  readonly netns?: string;
}

function addProcess(pid: number, { comm, cgroup, startTime = 100, netns = "net" }: FakeProcess): void {
  const folder = join(procRoot, String(pid));
  mkdirSync(join(folder, "ns"), { recursive: true });
  writeFileSync(join(folder, "comm"), `${comm}\n`);
  writeFileSync(join(folder, "cgroup"), `${cgroup}\n`);
  const fields = [`${pid} (a ) b) S`, ...Array<number>(18).fill(0), startTime, 0];
  writeFileSync(join(folder, "stat"), fields.join(" "));
  // another namespace of any kind has another identity
  symlinkSync(join("/proc", readlinkSync("/proc/self"), "ns", netns), join(folder, "ns/net"));
  symlinkSync(join("/proc", readlinkSync("/proc/self"), "ns/cgroup"), join(folder, "ns/cgroup"));
}

function kubeletMatch(): KubeletMatch {
  const log = { ...silentLogger, warn: (_fields: object, message: string) => void warnings.push(message) };
  return new KubeletMatch({ procRoot, backend: { variant: "nft", runner: new ToolRunner() }, log });
}

describe("unifiedPath", () => {
  test.each<[string, string | undefined]>([
    ["0::/system.slice/kubelet.service", "system.slice/kubelet.service"],
    ["4:memory:/x\n1:name=systemd:/y\n0::/kubelet.slice/kubelet.service\n", "kubelet.slice/kubelet.service"],
    ["0::/", undefined],
    ["4:memory:/system.slice/kubelet.service", undefined],
    ["0::/../../system.slice/kubelet.service", undefined],
    ['0::/a"b', undefined],
    ["0::/a b", undefined],
    [`0::/${"x".repeat(501)}`, undefined],
    ["", undefined],
  ])("of %j is %j", (text, path) => {
    expect(unifiedPath(text)).toBe(path);
  });
});

describe("the kubelet", () => {
  test("is matched by its cgroup", async () => {
    addProcess(200, { comm: "kubelet", cgroup: "0::/system.slice/kubelet.service" });
    const match = await kubeletMatch().current(hostKey);
    expect(match).toMatchObject({
      kind: "cgroup",
      args: ["-m", "cgroup", "--path", "system.slice/kubelet.service"],
    });
    expect(match.cgroupNsPath).toBeUndefined();
    expect(warnings).toEqual([]);
  });

  test("is the oldest process of that name outside pods in the host's namespace", async () => {
    const pod = "11111111-2222-3333-4444-555555555555";
    addProcess(88, { comm: "kubelet", cgroup: `0::/kubepods/pod${pod}/x`, startTime: 1 });
    // as an agent in a cgroup namespace of its own sees a pod of its quality of service
    addProcess(89, { comm: "kubelet", cgroup: `0::/../../pod${pod}/x`, startTime: 1 });
    addProcess(90, { comm: "kubelet", cgroup: "0::/kubepods.slice/kubepods-podx.slice/x", startTime: 1 });
    addProcess(91, { comm: "kubelet", cgroup: "0::/elsewhere", startTime: 2, netns: "mnt" });
    addProcess(92, { comm: "kubectl", cgroup: "0::/session", startTime: 3 });
    addProcess(300, { comm: "kubelet", cgroup: "0::/younger", startTime: 1000 });
    addProcess(200, { comm: "kubelet", cgroup: "0::/right", startTime: 999 });
    expect((await kubeletMatch().current(hostKey)).args).toContain("right");
  });

  test.each(["kubelite", "k3s", "k3s-server", "k3s-agent", "k0s"])("is found inside %s", async (comm) => {
    addProcess(200, { comm, cgroup: "0::/system.slice/node.service" });
    expect((await kubeletMatch().current(hostKey)).args).toContain("system.slice/node.service");
  });

  test("of its own name is taken rather than what started it", async () => {
    addProcess(200, { comm: "k0s", cgroup: "0::/starter", startTime: 10 });
    addProcess(201, { comm: "kubelet", cgroup: "0::/right", startTime: 20 });
    expect((await kubeletMatch().current(hostKey)).args).toContain("right");
  });

  test("that was restarted has another key under the same path, and is found again", async () => {
    addProcess(200, { comm: "kubelet", cgroup: "0::/kubelet.service" });
    const kubelet = kubeletMatch();
    const before = await kubelet.current(hostKey);
    expect(await kubelet.current(hostKey)).toBe(before);
    rmSync(join(procRoot, "200"), { recursive: true });
    expect(await kubelet.current(hostKey)).toBe(before);
    addProcess(201, { comm: "kubelet", cgroup: "0::/kubelet.service", startTime: 500 });
    const after = await kubelet.current(hostKey);
    expect(after.args).toEqual(before.args);
    expect(after.key).not.toBe(before.key);
  });

  test("in the root cgroup is matched by its user, with a warning", async () => {
    addProcess(200, { comm: "kubelet", cgroup: "4:memory:/kubelet\n0::/" });
    const match = await kubeletMatch().current(hostKey);
    expect(match.args).toEqual(["-m", "owner", "--uid-owner", String(process.getuid?.())]);
    expect(warnings).toEqual([
      expect.stringMatching(/in no cgroup of version 2.*every host process of user/),
    ]);
  });

  test("that is not there leaves any socket, with one warning", async () => {
    const kubelet = kubeletMatch();
    expect((await kubelet.current(hostKey)).kind).toBe("any");
    await kubelet.current(hostKey);
    expect(warnings).toEqual([expect.stringMatching(/no kubelet process.*every host process counts/)]);
  });

  test("whose match the kernel refuses is matched by the next weaker one", async () => {
    addProcess(200, { comm: "kubelet", cgroup: "0::/kubelet.service" });
    const kubelet = kubeletMatch();
    expect(kubelet.countsOwnConnections).toBe(true);
    const cgroup = await kubelet.current(hostKey);
    expect(kubelet.countsOwnConnections).toBe(false);
    expect(await kubelet.refuse(cgroup, "no such match")).toBe(true);
    const uid = await kubelet.current(hostKey);
    expect(uid.kind).toBe("uid");
    // the user is this process's own
    expect(kubelet.countsOwnConnections).toBe(true);
    expect(await kubelet.refuse(uid, "nor that")).toBe(true);
    const any = await kubelet.current(hostKey);
    expect(any.kind).toBe("any");
    expect(kubelet.countsOwnConnections).toBe(true);
    expect(await kubelet.refuse(any, "nothing")).toBe(false);
    expect(warnings).toHaveLength(2);
  });
});
