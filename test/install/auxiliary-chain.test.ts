// SPDX-License-Identifier: Apache-2.0
// OpenShift's layout: Multus runs the plugins of an auxiliary chain for every pod, and our file has to be one of them.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { removeFromChain } from "../../src/install/chain-removal.ts";
import { Installer } from "../../src/install/installer.ts";
import { chainFolders, findMultusChain } from "../../src/install/multus-chain.ts";
import { type Logger, silentLogger } from "../../src/log/logger.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { waitFor } from "../support/node/wait-for.ts";

let root: string;
let binDir: string;
/** As a platform's chart mounts them. */
let netDir: string;
let baseDir: string;
let runtimeDir: string;
let clock: FakeClock;
let states: (string | undefined)[];
const installers: Installer[] = [];

const chainName = "vendor-cni-chain";
const shim = (more: object = {}): string =>
  JSON.stringify({
    cniVersion: "1.1.0",
    name: "multus-cni-network",
    type: "multus-shim",
    clusterNetwork: "/host/run/multus/cni/net.d/10-ovn-kubernetes.conf",
    auxiliaryCNIChainName: chainName,
    ...more,
  });

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "auxiliary-"));
  binDir = join(root, "opt/cni/bin");
  netDir = join(root, "etc/cni/net.d");
  baseDir = join(root, "run/multus/cni/net.d");
  runtimeDir = join(root, "etc/kubernetes/cni/net.d");
  for (const folder of [binDir, netDir, baseDir, runtimeDir]) mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(baseDir, "10-ovn-kubernetes.conf"),
    '{"name":"ovn-kubernetes","type":"ovn-k8s-cni-overlay"}',
  );
  writeFileSync(join(runtimeDir, "00-multus.conf"), shim());
  clock = new FakeClock();
  states = [];
});
afterEach(async () => {
  for (const installer of installers.splice(0)) await installer.stop();
  chmodSync(binDir, 0o755);
  rmSync(root, { recursive: true, force: true });
});

function make(change: { netDir?: string; source?: string; chained?: boolean; log?: Logger } = {}): Installer {
  const { install } = loadConfig({ env: { NODE_NAME: "n" }, args: [] });
  const installer = new Installer({
    config: {
      ...install,
      netDir: change.netDir ?? netDir,
      binDir,
      chained: change.chained ?? false,
      confName: change.chained ? undefined : "istio-cni.conf",
    },
    runDir: join(root, "var/run/istio-cni"),
    entry: {
      type: "ambient-cni",
      cni_agent_run_dir: "/var/run/istio-cni",
      agent_wait_seconds: 10,
      exempt: ["kube-system"],
    },
    replaceIstioCni: false,
    hostRoot: root,
    log: change.log ?? silentLogger,
    onstate: (fault) => states.push(fault),
    onrepaired() {},
    onfight() {},
    onpeace() {},
    source: change.source ?? join(import.meta.dirname, "../../plugin/build/ambient-cni"),
    clock,
  });
  installers.push(installer);
  return installer;
}

const file = (): string => join(baseDir, chainName, "istio-cni.conf");
/** A look that the installer's time brings; one under way would swallow it. */
async function look(): Promise<void> {
  await waitFor("the look before to end", () => clock.pendingCount > 0);
  clock.advance(5_000);
}

describe("with an auxiliary chain", () => {
  it("our file is made in its folder, besides the one that network definitions name, and is put back", async () => {
    await make().start();
    expect(states.at(-1)).toBeUndefined();
    const text = readFileSync(file(), "utf8");
    expect(JSON.parse(text)).toMatchObject({ type: "ambient-cni", exempt: ["kube-system"] });
    expect(readFileSync(join(netDir, "istio-cni.conf"), "utf8")).toBe(text);
    // what the platform's operator owns
    expect(readdirSync(baseDir)).toEqual(["10-ovn-kubernetes.conf", chainName]);
    rmSync(file());
    await waitFor("the file", () => existsSync(file()), { timeoutMs: 2000 });
    rmSync(join(baseDir, chainName), { recursive: true });
    await waitFor("folder and file", () => existsSync(file()), { timeoutMs: 7000 });
  });

  it("the launcher is there before the file, and without it there is no file", async () => {
    const broken = join(root, "no-launcher");
    writeFileSync(broken, "#!/bin/false\n", { mode: 0o755 });
    await make({ source: broken }).start();
    expect(states.at(-1)).toContain("does not start");
    expect([existsSync(file()), existsSync(join(netDir, "istio-cni.conf"))]).toEqual([false, false]);
    await make().start();
    expect([existsSync(join(binDir, "ambient-cni")), existsSync(file())]).toEqual([true, true]);
  });

  it("switched on while the agent runs is used, and one that is renamed is followed", async () => {
    writeFileSync(join(runtimeDir, "00-multus.conf"), shim({ auxiliaryCNIChainName: undefined }));
    await make().start();
    expect(existsSync(file())).toBe(false);
    writeFileSync(join(runtimeDir, "00-multus.conf"), shim());
    await look();
    await waitFor("our file", () => existsSync(file()));
    // Multus takes its file away while it restarts
    rmSync(join(runtimeDir, "00-multus.conf"));
    await look();
    writeFileSync(join(runtimeDir, "00-multus.conf"), shim({ auxiliaryCNIChainName: "other" }));
    await look();
    await waitFor("the other file", () => existsSync(join(baseDir, "other/istio-cni.conf")));
  });

  it("whose folder is the one we are told (cniConfDir), has one file, and nothing besides", async () => {
    const own = join(root, "etc/cni/of-sail");
    mkdirSync(join(baseDir, chainName));
    symlinkSync(join(baseDir, chainName), own);
    await make({ netDir: own }).start();
    expect(readdirSync(join(baseDir, chainName))).toEqual(["istio-cni.conf"]);
    expect(await findMultusChain({ hostRoot: root, netDir: own, network: {} })).toMatchObject({
      isNetDir: true,
    });
  });

  it("whose folder lies in the one we are told has both files, and neither keeper fights the other", async () => {
    await make({ netDir: baseDir }).start();
    await look();
    await waitFor("our file", () => existsSync(file()));
    expect(existsSync(join(baseDir, "istio-cni.conf"))).toBe(true);
    expect(installers[0]?.chain.rewrites).toBe(0);
  });

  it("that is not mounted here is said once, and nothing is written around the mounts", async () => {
    const node = join(root, "node");
    mkdirSync(join(node, "run/multus/cni"), { recursive: true });
    mkdirSync(join(root, "proc/1"), { recursive: true });
    symlinkSync(node, join(root, "proc/1/root"));
    rmSync(baseDir, { recursive: true });
    const lines: string[] = [];
    const log: Logger = { ...silentLogger, warn: (_fields, line) => lines.push(line ?? "") };
    await make({ log }).start();
    await look();
    await waitFor("two looks", () => clock.pendingCount > 0);
    expect(lines.filter((line) => line.includes("cniConfDir"))).toHaveLength(1);
    expect(readdirSync(join(node, "run/multus/cni"))).toEqual([]);
    expect(existsSync(join(netDir, "istio-cni.conf"))).toBe(true);
  });

  it("is left alone where the agent is in the runtime's own chain", async () => {
    writeFileSync(join(netDir, "10-a.conflist"), '{"name":"a","plugins":[{"type":"x"}]}');
    await make({ chained: true }).start();
    expect(existsSync(join(baseDir, chainName))).toBe(false);
  });

  it("is left with the rest of the node", async () => {
    await make().start();
    const folders = await chainFolders({ hostRoot: root, netDir });
    expect(folders).toEqual([netDir, baseDir]);
    await installers[0]?.stop();
    for (const folder of folders) await removeFromChain({ netDir: folder, hostRoot: root });
    expect([readdirSync(netDir), readdirSync(join(baseDir, chainName))]).toEqual([[], []]);
    expect(readdirSync(baseDir)).toContain("10-ovn-kubernetes.conf");
  });
});

describe("what Multus says", () => {
  const find = () => findMultusChain({ hostRoot: root, netDir, network: {} });
  it.each<[string, object, object | undefined]>([
    ["a path as its container sees it", {}, { folder: `/run/multus/cni/net.d/${chainName}` }],
    [
      "a path of the host, over the link /var/run",
      { clusterNetwork: "/var/run/multus/cni/net.d/10-x.conf" },
      { folder: `/run/multus/cni/net.d/${chainName}` },
    ],
    ["no chain", { auxiliaryCNIChainName: "" }, undefined],
    ["a chain whose name is a path", { auxiliaryCNIChainName: "../x" }, undefined],
    ["a network without a path, which Multus refuses", { clusterNetwork: "ovn" }, undefined],
  ])("with %s", async (_what, change, auxiliary) => {
    writeFileSync(join(runtimeDir, "00-multus.conf"), shim(change));
    const found = await find();
    expect(found?.file).toBe("/etc/kubernetes/cni/net.d/00-multus.conf");
    if (auxiliary === undefined) expect(found?.auxiliary).toBeUndefined();
    else expect(found).toMatchObject({ auxiliary, writableDir: baseDir });
  });

  it("counts only where the runtime takes Multus", async () => {
    writeFileSync(join(runtimeDir, "00-first.conf"), '{"name":"a","type":"x"}');
    expect(await find()).toBeUndefined();
  });
});
