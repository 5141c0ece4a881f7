// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { parseCrioConf } from "../../src/conflist/crio-conf.ts";
import { RuntimeNetworkReader } from "../../src/install/runtime-network.ts";
import { FakeClock } from "../support/fake-clock.ts";

describe("CRI-O's configuration file", () => {
  it.each<[string, string, object]>([
    ["the usual form", '[crio.network]\ncni_default_network = "a"\n', { defaultNetwork: "a" }],
    ["a comment behind it", "[crio.network] # x\n  cni_default_network='a' # b\n", { defaultNetwork: "a" }],
    ["an empty value", '[crio.network]\ncni_default_network = ""', { defaultNetwork: "" }],
    ["a folder", '[crio.network]\r\nnetwork_dir = "/n\\u00e9t"\r\n', { networkDir: "/nét" }],
    ["dotted keys", '[crio]\nnetwork.cni_default_network = "a"', { defaultNetwork: "a" }],
    ["no table", 'crio.network.cni_default_network = "a"', { defaultNetwork: "a" }],
    [
      "spaces and quotes in the table",
      '[ crio . "network" ]\ncni_default_network="a"',
      { defaultNetwork: "a" },
    ],
    ["a comment", '[crio.network]\n# cni_default_network = "a"', {}],
    ["another table", '[crio.network]\n[crio.runtime]\ncni_default_network = "a"', {}],
    ["an array of tables", '[[crio.network]]\ncni_default_network = "a"', {}],
    ["something else than a string", "[crio.network]\ncni_default_network = 7", {}],
    [
      "a string of several lines that looks like it",
      '[crio.network]\nx = """\ncni_default_network = "b"\n"""\ncni_default_network = "a"',
      { defaultNetwork: "a" },
    ],
    ["nothing", "", {}],
    ["no TOML", '{"cni_default_network":"a"}', {}],
  ])("with %s", (_what, text, expected) => {
    expect(parseCrioConf(text)).toEqual(expected);
  });
});

describe("the network of the node's runtime", () => {
  let dir: string;
  let hostRoot: string;
  let node: string;
  let clock: FakeClock;
  let reader: RuntimeNetworkReader;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "runtime-network-"));
    hostRoot = join(dir, "host");
    node = join(dir, "node");
    mkdirSync(join(hostRoot, "proc"), { recursive: true });
    mkdirSync(join(node, "etc"), { recursive: true });
    clock = new FakeClock();
    reader = new RuntimeNetworkReader({ hostRoot, clock });
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const put = (path: string, content: string): void => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
  };
  interface Given {
    readonly args?: readonly string[];
    readonly env?: string;
    readonly startedAt?: number;
    readonly isSeen?: boolean;
    readonly cgroup?: string;
    /** In another network namespace than the node's. */
    readonly isElsewhere?: boolean;
  }
  const run = (
    pid: number,
    comm: string,
    {
      args = [],
      env = "",
      startedAt = 5,
      isSeen = true,
      cgroup = "/system.slice/runtime.service",
      isElsewhere = false,
    }: Given = {},
  ) => {
    const folder = join(hostRoot, "proc", String(pid));
    rmSync(folder, { recursive: true, force: true });
    put(join(folder, "comm"), `${comm}\n`);
    put(join(folder, "cmdline"), [`/usr/bin/${comm}`, ...args, ""].join("\0"));
    put(join(folder, "environ"), env);
    put(join(folder, "cgroup"), `0::${cgroup}\n`);
    if (isElsewhere) put(join(folder, "ns/net"), "");
    put(
      join(folder, "stat"),
      `${pid} (${comm}) S ${Array.from({ length: 18 }, () => 0).join(" ")} ${startedAt} 0`,
    );
    if (isSeen) symlinkSync(node, join(folder, "root"));
  };
  const conf = (network: string, root = node, file = "etc/crio/crio.conf"): void =>
    put(join(root, file), `[crio.network]\ncni_default_network = "${network}"\n`);

  it("is the first of the folder with another runtime, whatever CRI-O left behind", async () => {
    run(7, "containerd");
    conf("left");
    conf("left", hostRoot);
    expect(await reader.read()).toEqual({});
  });

  it("is the one of CRI-O's file; drop-ins win over it, the environment over them, flags over all", async () => {
    conf("file");
    const read = () => new RuntimeNetworkReader({ hostRoot }).read();
    run(9, "crio");
    expect(await read()).toMatchObject({ defaultNetwork: "file" });
    conf("early", node, "etc/crio/crio.conf.d/01-x");
    conf("late", node, "etc/crio/crio.conf.d/10-y.conf");
    expect(await read()).toMatchObject({ defaultNetwork: "late" });
    run(9, "crio", { env: "A=b\0CONTAINER_CNI_DEFAULT_NETWORK=env\0" });
    expect(await read()).toMatchObject({ defaultNetwork: "env" });
    run(9, "crio", { args: ["--cni-default-network=flag"], env: "CONTAINER_CNI_DEFAULT_NETWORK=env\0" });
    expect(await read()).toMatchObject({ defaultNetwork: "flag" });
    conf("elsewhere", node, "opt/crio.conf");
    run(9, "crio", { args: ["-c", "/opt/crio.conf", "--config-dir", "/none"] });
    expect(await read()).toMatchObject({ defaultNetwork: "elsewhere" });
  });

  const pod = "11111111-2222-3333-4444-555555555555";
  it.each<[string, Given]>([
    ["in a pod", { cgroup: `/kubepods/burstable/pod${pod}/${"a".repeat(64)}` }],
    ["in a pod, as an agent in a cgroup namespace sees it", { cgroup: `/../../pod${pod}/${"a".repeat(64)}` }],
    ["in another network namespace", { isElsewhere: true }],
  ])("is not what a process says that is called crio %s", async (_, where) => {
    conf("theirs");
    run(9, "containerd");
    const args = ["--cni-default-network=theirs", "--cni-config-dir=/tmp/theirs"];
    run(7, "crio", { ...where, args, env: "CONTAINER_CNI_DEFAULT_NETWORK=theirs\0" });
    expect(await reader.read()).toEqual({});
    run(8, "crio", { args: ["--cni-default-network=ours"] });
    expect(await new RuntimeNetworkReader({ hostRoot }).read()).toMatchObject({ defaultNetwork: "ours" });
  });

  it("is the first where CRI-O is told none, or an empty one", async () => {
    run(9, "crio");
    expect((await reader.read()).defaultNetwork).toBeUndefined();
    conf("");
    expect(await new RuntimeNetworkReader({ hostRoot }).read()).toEqual({ defaultNetwork: undefined });
  });

  it("is found in what is mounted, and through the host's first process", async () => {
    run(9, "crio", { isSeen: false });
    conf("mounted", hostRoot);
    expect(await reader.read()).toMatchObject({ defaultNetwork: "mounted" });
    rmSync(join(hostRoot, "etc"), { recursive: true });
    conf("whole");
    run(1, "systemd");
    expect(await new RuntimeNetworkReader({ hostRoot }).read()).toMatchObject({ defaultNetwork: "whole" });
  });

  it("is said to be out of sight where CRI-O runs and nothing shows its files", async () => {
    run(9, "crio", { isSeen: false });
    const network = await reader.read();
    expect(network.unseen).toContain("/etc/crio");
    expect(network.defaultNetwork).toBeUndefined();
  });

  it("is read again when CRI-O was started again, and not before: it reads its settings at its start", async () => {
    conf("old");
    run(9, "crio");
    expect(await reader.read()).toMatchObject({ defaultNetwork: "old" });
    conf("new");
    clock.advance(120_000);
    expect(await reader.read()).toMatchObject({ defaultNetwork: "old" });
    run(9, "crio", { startedAt: 6 });
    expect(await reader.read()).toMatchObject({ defaultNetwork: "new" });
  });
});
