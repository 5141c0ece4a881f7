// SPDX-License-Identifier: Apache-2.0
// The test node tested by itself: pods of a real CNI chain, and nothing left behind however it ends.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cgroupMountPoints, createCgroupFolder, sweepStaleCgroupFolders } from "../support/node/cgroup.ts";
import { leftovers, type NodeTraces, tracesOf } from "../support/node/leftovers.ts";
import { NodeModule } from "../support/node/node-module.ts";
import { waitFor } from "../support/node/wait-for.ts";

const root = process.getuid?.() === 0;
const insidePath = join(import.meta.dirname, "two-pods.inside.ts");
type Inside = typeof import("./two-pods.inside.ts");

test("cgroup hierarchies are found on v1, hybrid and v2 machines", () => {
  const v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
  const hybrid = "41 32 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
  const systemd = "40 32 0:37 / /sys/fs/cgroup/systemd rw shared:8 - cgroup cgroup rw,xattr,name=systemd";
  const pids = "36 32 0:33 / /sys/fs/cgroup/pids rw shared:13 - cgroup cgroup rw,pids";
  const cpuset = "35 32 0:32 / /sys/fs/cgroup/cpuset rw shared:13 - cgroup cgroup rw,cpuset";
  const readOnly = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup2 rw";
  const spaced = String.raw`36 32 0:33 / /mnt/my\040cgroup rw - cgroup2 cgroup2 rw`;
  expect(cgroupMountPoints(v2)).toEqual(["/sys/fs/cgroup"]);
  expect(cgroupMountPoints([cpuset, pids, systemd, hybrid].join("\n"))).toEqual([
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/pids",
  ]);
  expect(cgroupMountPoints([cpuset, pids].join("\n"))).toEqual(["/sys/fs/cgroup/pids"]);
  expect(cgroupMountPoints(readOnly)).toEqual([]);
  expect(cgroupMountPoints(spaced)).toEqual(["/mnt/my cgroup"]);
  expect(cgroupMountPoints("")).toEqual([]);
});

describe.skipIf(!root)("pods of a node (needs root)", () => {
  let inside: NodeModule<Inside>;
  let machineLinks: string;

  beforeAll(async () => {
    machineLinks = await readFile("/proc/net/dev", "utf8");
    inside = await NodeModule.start<Inside>(insidePath);
  });
  afterAll(async () => {
    await inside?.stop();
  });

  test("two pods reach each other over both families and see each other's address", async () => {
    const [a, b] = await Promise.all([inside.call.addPod("a"), inside.call.addPod("b")]);
    await inside.call.serve("b", 8080);
    for (const family of [0, 1]) {
      const answer = await inside.call.request("a", b.ips[family] as string, 8080);
      expect(answer.peer.address).toBe(a.ips[family]);
      expect(answer.local).toEqual({ address: b.ips[family], port: 8080 });
      expect(answer.body).toBe("hello");
    }
    expect(await inside.call.listening("b")).toContain("tcp * 8080");
    expect((await inside.call.rules("b")).at(-1)).toContain("lookup default");
    const calls = await inside.call.takeCalls();
    expect(calls.map((call) => `${call.verb} ${call.type}`).sort()).toEqual([
      "ADD bridge",
      "ADD bridge",
      "ADD loopback",
      "ADD loopback",
    ]);
    for (const call of calls) {
      expect(call.netns).toMatch(/^\/var\/run\/netns\/cni-[0-9a-f-]{36}$/);
      expect(
        call.args
          .split(";")
          .map((pair) => pair.split("=")[0])
          .sort(),
      ).toEqual([
        "IgnoreUnknown",
        "K8S_POD_INFRA_CONTAINER_ID",
        "K8S_POD_NAME",
        "K8S_POD_NAMESPACE",
        "K8S_POD_UID",
      ]);
    }
  });

  test("processes of a pod show its uid in their cgroup path", async () => {
    const { uid } = await inside.call.addPod("c");
    const path = new RegExp(`/kubepods/burstable/pod${uid}/[0-9a-f]{64}$`, "m");
    expect(await inside.call.cgroupLines("c")).toMatch(path);
    expect(await inside.call.appCgroupLines("c")).toMatch(path);
    expect(await inside.call.appCgroupLines("c")).not.toBe(await inside.call.cgroupLines("c"));
  });

  test("a deleted pod gets DEL twice, the second time without namespace and result, and is gone", async () => {
    await inside.call.check("c");
    await inside.call.takeCalls();
    for (const name of ["a", "b", "c"]) await inside.call.deletePod(name);
    const dels = (await inside.call.takeCalls()).filter((call) => call.type === "bridge");
    expect(dels.map((call) => call.verb)).toEqual(Array(6).fill("DEL"));
    expect(dels.map((call) => [call.netns !== "", call.hasPrevResult])).toEqual([
      [true, true],
      [false, false],
      [true, true],
      [false, false],
      [true, true],
      [false, false],
    ]);
    expect(await inside.call.remains()).toEqual({ links: [], netns: "", podFolders: 0, leases: "" });
  });

  test("a chain whose last plugin fails is taken down again and says which one failed", async () => {
    const missing = inside.call.addPod("bad", [{ type: "no-such-plugin" }]);
    await expect(missing).rejects.toThrow(
      /^failed to setup network for sandbox "[0-9a-f]{64}": plugin type="no-such-plugin" failed \(add\): failed to find plugin "no-such-plugin" in path \[\/usr\/lib\/cni\]$/,
    );
    await inside.call.takeCalls();
    // tuning refuses what is no sysctl: a real plugin's own error object
    const refused = inside.call.addPod("bad", [{ type: "tuning", sysctl: { "net.no.such": "1" } }]);
    await expect(refused).rejects.toThrow(/plugin type="tuning" failed \(add\): /);
    const calls = await inside.call.takeCalls();
    const del = calls.filter((call) => call.verb === "DEL" && call.type !== "loopback");
    expect(del.map((call) => [call.type, call.netns !== "", call.hasPrevResult])).toEqual([
      ["tuning", true, false],
      ["bridge", true, false],
    ]);
  });

  test("the rule monitor misses no rule and invents none", async () => {
    await inside.call.addPod("d");
    const seen = await inside.call.watchOneRule("d");
    expect(seen.quiet).toEqual([]);
    expect(seen.changes.filter((change) => change.startsWith("delete rule"))).toHaveLength(1);
    expect(seen.changes.filter((change) => change.startsWith("add rule"))).toHaveLength(1);
    expect(seen.same).toBe(false);
    expect(seen.save).toContain("-A OUTPUT -p tcp -m tcp --dport 9 -j ACCEPT");
  });

  test("the machine's own links are not touched", async () => {
    const names = (text: string): string[] =>
      text.split("\n").map((line) => line.split(":")[0]?.trim() ?? "");
    expect(names(await readFile("/proc/net/dev", "utf8"))).toEqual(names(machineLinks));
  });
});

describe.skipIf(!root)("the end of a node (needs root)", () => {
  /** Starts a process that owns a node with one pod in it, and tells where it is. */
  async function startOwner(): Promise<NodeTraces & { owner: ReturnType<typeof spawn> }> {
    const owner = spawn(process.execPath, [join(import.meta.dirname, "owner.ts"), insidePath], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [line] = (await once(owner.stdout, "data")) as [Buffer];
    const { cgroupFolder } = JSON.parse(line.toString()) as { cgroupFolder: string };
    return { owner, ...(await tracesOf({ cgroupFolder })) };
  }

  test.each(["SIGKILL", "SIGTERM"] as const)("nothing is left when the owner gets %s", async (signal) => {
    const { owner, ...traces } = await startOwner();
    expect(traces.namespaces).toHaveLength(4);
    expect(await leftovers(traces)).not.toEqual([]);
    owner.kill(signal);
    await once(owner, "exit");
    // once gone is gone: a moment later a namespace of a test beside this one may have the same number
    const left = await waitFor(
      "everything to be gone",
      async () => (await leftovers(traces)).length === 0,
    ).then(
      () => [],
      () => leftovers(traces),
    );
    expect(left).toEqual([]);
  });

  test("folders of dead nodes are swept, those of living ones and of strangers stay", async () => {
    const gone = spawn("true");
    await once(gone, "exit");
    const stale = await createCgroupFolder(`ambient-cni-${gone.pid}-test${process.pid}`);
    await mkdir(join(stale, "kubepods/burstable/podx"), { recursive: true });
    const living = await createCgroupFolder(`ambient-cni-${process.pid}-sweeptest`);
    expect(await sweepStaleCgroupFolders()).toContain(stale);
    await expect(stat(stale)).rejects.toThrow("ENOENT");
    expect((await stat(living)).isDirectory()).toBe(true);
    await rmdir(living);
  });
});

describe.skipIf(!root)("a program that runs itself in a node (needs root)", () => {
  const entry = join(import.meta.dirname, "run-in-node.entry.ts");

  test.each([
    ["SIGINT", 42],
    ["SIGTERM", 43],
  ] as const)("is told of %s and its exit code comes out", async (signal, code) => {
    const program = spawn(process.execPath, [entry, "one", "two words"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let output = "";
    program.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
    await waitFor("the program to be inside", () => output.includes("inside"));
    expect(output).toContain("inside one,two words\n");
    program.kill(signal);
    expect(await once(program, "exit")).toEqual([code, null]);
    expect(output).toContain(`got ${signal}\n`);
  });

  test("ends at once when it is asked a second time", async () => {
    const program = spawn(process.execPath, [entry, "stubborn"], { stdio: ["ignore", "pipe", "inherit"] });
    await once(program.stdout, "data");
    program.kill("SIGINT");
    await once(program.stdout, "data");
    program.kill("SIGINT");
    expect((await once(program, "exit"))[0]).toBe(137);
  });
});
