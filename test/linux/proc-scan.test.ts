// SPDX-License-Identifier: Apache-2.0
// The scan over a /proc made of files: ages, missing files and host processes can be set up there exactly.
// What the real /proc looks like is checked by the kernel tests and the demo.
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { scanProc } from "../../src/linux/proc-scan.ts";

const uid = "11111111-2222-3333-4444-555555555555";
const other = "99999999-2222-3333-4444-555555555555";
const id = (digit: string): string => digit.repeat(64);

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "proc-scan-"));
});
afterEach(() => rmSync(root, { recursive: true }));

interface FakeProcess {
  readonly cgroup?: string;
  readonly start?: number;
  readonly command?: string;
}

function addProcess(pid: number, { cgroup, start = 100, command = "app" }: FakeProcess): string {
  const folder = join(root, String(pid));
  mkdirSync(join(folder, "ns"), { recursive: true });
  writeFileSync(join(folder, "ns/net"), "");
  if (cgroup !== undefined) writeFileSync(join(folder, "cgroup"), `0::${cgroup}\n`);
  writeFileSync(join(folder, "stat"), `${pid} (${command}) S ${"0 ".repeat(18)}${start} 0\n`);
  return join(folder, "ns/net");
}

function scan(pods: Parameters<typeof scanProc>[0], ignoreNetns: ReadonlySet<string> = new Set()) {
  return scanProc(pods, { procRoot: root, ignoreNetns });
}

test("scanProc takes the oldest process of a pod and its innermost container", async () => {
  addProcess(30, { cgroup: `/kubepods/pod${uid}/${id("b")}`, start: 300 });
  const path = addProcess(40, {
    cgroup: `/kubepods/pod${uid}/${id("a")}`,
    start: 200,
    command: "a) S 1 (b",
  });
  addProcess(50, { cgroup: `/kubepods/pod${uid}/${id("c")}`, start: 400 });
  const { oldest } = await scan([{ uid, containerIds: [] }]);
  expect(oldest.get(uid)).toMatchObject({ netnsPath: path, startTime: 200, containerId: id("a") });
});

test("scanProc finds a pod by a container id when its path has no UID", async () => {
  const path = addProcess(30, { cgroup: `/machine.slice/crio-${id("d")}.scope` });
  const { oldest } = await scan([{ uid, containerIds: [id("e"), id("d")] }]);
  expect(oldest.get(uid)?.netnsPath).toBe(path);
});

test("scanProc takes no process for a pod's or a container's because of what stands below its own pod's cgroup", async () => {
  const victim = [{ uid, containerIds: [id("e")] }];
  const bare = (text: string): string => text.replaceAll("-", "");
  const names = [`x/pod${uid}/${id("e")}`, `kubepods/pod${uid}`, id("e"), `crio-${id("e")}.scope`];
  const paths = names.map((name, index) =>
    addProcess(30 + index, { cgroup: `/kubepods/pod${other}/${id("d")}/${name}`, start: 1 }),
  );
  const { oldest, occupants } = await scan(victim);
  expect(oldest).toEqual(new Map());
  for (const path of paths) expect(occupants.get(netnsKeyAt(path) ?? "")).toEqual(new Set([bare(other)]));
});

test("scanProc knows where the node begins, which is a pod of another cluster", async () => {
  const node = `/kubepods/pod${other}/${id("f")}`;
  addProcess(1, { cgroup: `${node}/init.scope` });
  const path = addProcess(30, { cgroup: `${node}/kubepods/pod${uid}/${id("a")}` });
  const { oldest } = await scan([
    { uid, containerIds: [] },
    { uid: other, containerIds: [] },
  ]);
  expect([...oldest].map(([key, { netnsPath }]) => [key, netnsPath])).toEqual([[uid, path]]);
});

test("scanProc passes over processes of the host's namespace, other pods and half-gone processes", async () => {
  const host = addProcess(1, { cgroup: `/kubepods/pod${uid}/${id("a")}`, start: 1 });
  addProcess(31, { cgroup: `/kubepods/pod${other}/${id("b")}` });
  addProcess(32, {});
  mkdirSync(join(root, "33"));
  mkdirSync(join(root, "self"));
  const hostKey = netnsKeyAt(host) ?? "";
  const { oldest } = await scan([{ uid, containerIds: [] }], new Set([hostKey]));
  expect(oldest).toEqual(new Map());
});

test("scanProc answers for many pods in one pass", async () => {
  const pods = Array.from({ length: 60 }, (_, index) => ({
    uid: `00000000-0000-0000-0000-${String(index).padStart(12, "0")}`,
    containerIds: [],
  }));
  for (const [index, pod] of pods.entries())
    addProcess(1000 + index, { cgroup: `/kubepods/pod${pod.uid}/${id("a")}` });
  expect([...(await scan(pods)).oldest.keys()].sort()).toEqual(pods.map((pod) => pod.uid));
});

test("scanProc tells which pods have processes in a namespace, wanted or not", async () => {
  const bare = (text: string): string => text.replaceAll("-", "");
  const path = addProcess(30, { cgroup: `/kubepods/pod${uid}/${id("a")}` });
  rmSync(addProcess(31, { cgroup: `/kubepods/pod${other}/${id("b")}` }));
  linkSync(path, join(root, "31/ns/net"));
  const elsewhere = addProcess(32, { cgroup: `/kubepods/pod${other}/${id("c")}` });
  const nobodys = addProcess(33, { cgroup: "/system.slice/sshd.service" });
  const container = addProcess(34, { cgroup: `/machine.slice/crio-${id("d")}.scope` });
  const named = addProcess(35, { cgroup: `/machine.slice/crio-${id("e")}.scope` });
  const { occupants } = await scan([{ uid, containerIds: [id("e")] }]);
  expect(occupants.get(netnsKeyAt(container) ?? "")).toEqual(new Set([id("d")]));
  expect(occupants.get(netnsKeyAt(named) ?? "")).toEqual(new Set([bare(uid)]));
  expect(occupants.get(netnsKeyAt(path) ?? "")).toEqual(new Set([bare(uid), bare(other)]));
  expect(occupants.get(netnsKeyAt(elsewhere) ?? "")).toEqual(new Set([bare(other)]));
  expect(occupants.has(netnsKeyAt(nobodys) ?? "")).toBe(false);
});

test("scanProc finds all pods whose UID is in a cgroup path, by the bare UID", async () => {
  addProcess(30, { cgroup: `/kubepods/pod${uid}/${id("a")}`, start: 7 });
  addProcess(31, { cgroup: `/kubepods.slice/kubepods-pod${other.replaceAll("-", "_")}.slice/x` });
  addProcess(32, { cgroup: `/machine.slice/crio-${id("d")}.scope` });
  const { oldest } = await scanProc("all", { procRoot: root, ignoreNetns: new Set() });
  expect([...oldest.keys()].sort()).toEqual([uid, other].map((each) => each.replaceAll("-", "")));
  expect(oldest.get(uid.replaceAll("-", ""))?.netnsPath).toBe(join(root, "30/ns/net"));
});
