// SPDX-License-Identifier: Apache-2.0
// istio-cni and ours on one node: whose entry, binary and kubeconfig are left, whoever comes first and whatever the names.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import type { PluginEntry } from "../../src/conflist/conflist-edit.ts";
import { chainEntry } from "../../src/install/chain-entry.ts";
import { Installer } from "../../src/install/installer.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { systemClock } from "../../src/loop/clock.ts";
import { IstioCni } from "../support/istio-cni/stand-in.ts";
import { waitFor } from "../support/node/wait-for.ts";

let folder: string;
let binDir: string;
let netDir: string;
let runDir: string;
const cleanups: (() => unknown)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ac-both-"));
  binDir = join(folder, "bin");
  netDir = join(folder, "net.d");
  runDir = join(folder, "run");
  for (const dir of [binDir, netDir, runDir, join(folder, "var/lib/cni")])
    mkdirSync(dir, { recursive: true });
  write([{ type: "bridge" }]);
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  rmSync(folder, { recursive: true, force: true });
});

const chainFile = (): string => join(netDir, "10-a.conflist");
function write(plugins: readonly object[]): void {
  writeFileSync(chainFile(), JSON.stringify({ cniVersion: "1.0.0", name: "a", plugins }, null, 2));
}
const plugins = (): { type: string; exempt?: unknown }[] =>
  JSON.parse(readFileSync(chainFile(), "utf8")).plugins;
const types = (): string[] => plugins().map(({ type }) => type);
/** What is left of both: the chain, each with whose entry it is, and the files. */
const left = () => ({
  chain: plugins().map(({ type, exempt }) => (exempt === undefined ? type : `${type} (ours)`)),
  bin: readdirSync(binDir).sort(),
  run: readdirSync(runDir).filter((name) => name !== "pluginevent.sock"),
});

/** Looks every 200 ms where the agent waits 5 s, and for 8 s until nobody calls a plugin. */
const hasty = {
  ...systemClock,
  nowMs: () => performance.now() * 25,
  after: (ms: number, work: () => void) => systemClock.after(ms / 25, work),
};

async function startOurs(podName: string, options: { replaceIstioCni?: boolean } = {}) {
  const states: (string | undefined)[] = [];
  const env = { NODE_NAME: "n", POD_NAME: podName, POD_NAMESPACE: "istio-system", CNI_AGENT_RUN_DIR: runDir };
  const config = loadConfig({ env, args: [] });
  const entry: PluginEntry = chainEntry(config);
  const fights: string[] = [];
  const installer = new Installer({
    config: { ...config.install, netDir, binDir },
    runDir,
    entry,
    replaceIstioCni: options.replaceIstioCni ?? entry.type === "istio-cni",
    hostRoot: folder,
    log: silentLogger,
    onstate: (fault) => states.push(fault),
    onrepaired() {},
    onfight: ({ remedy }) => fights.push(remedy),
    onpeace() {},
    source: join(import.meta.dirname, "../../plugin/build/ambient-cni"),
    clock: hasty,
  });
  cleanups.push(() => installer.stop());
  await installer.start();
  return { installer, states, fights };
}

async function startIstio(): Promise<IstioCni> {
  const istio = await IstioCni.start({
    netDir,
    binDir,
    runDir,
    mesh: [],
    sync: async () => {},
    capture: async () => {},
  });
  cleanups.push(() => istio.stop({ daemonSetStays: true }));
  return istio;
}

const theirs = { type: "istio-cni", cni_agent_run_dir: "/x", ambient_enabled: true };
const dropIn = "istio-cni-node-x7k2p";
const own = "ambient-cni-node-x7k2p";
const oursUnder = (name: string) => ({ chain: ["bridge", `${name} (ours)`], bin: [name], run: [] });

/** An istio-cni that ended without a word. */
function leaveIstio(): void {
  writeFileSync(join(binDir, "istio-cni"), "#!/bin/sh\n");
  chmodSync(join(binDir, "istio-cni"), 0o755);
  writeFileSync(join(runDir, "istio-cni-kubeconfig"), "token");
}

describe.each([
  ["in its DaemonSet", dropIn, "istio-cni"],
  ["under our own names", own, "ambient-cni"],
])("an agent %s that takes istio-cni's place", (_where, podName, name) => {
  const ours = { type: name, cni_agent_run_dir: "/x", agent_wait_seconds: 10, exempt: [] };
  test.each([
    ["istio-cni's alone", [{ type: "bridge" }, theirs]],
    ["both, istio-cni's first", [{ type: "bridge" }, theirs, ours]],
    ["both, ours first", [{ type: "bridge" }, ours, theirs]],
    [
      "both names of ours and istio-cni's",
      [{ type: "bridge" }, { ...ours, type: "ambient-cni" }, theirs, ours],
    ],
  ])("leaves its own alone of a chain with %s", async (_what, chain) => {
    leaveIstio();
    write(chain);
    await startOurs(podName, { replaceIstioCni: true });
    expect(types()).toHaveLength(2);
    await waitFor("the rest to go", () => {
      expect(left()).toEqual(oursUnder(name));
      return true;
    });
    expect(readFileSync(join(binDir, name)).length).toBeLessThan(1_000_000);
  });

  test("does so when istio-cni comes later, and for good when that has gone", async () => {
    await startOurs(podName, { replaceIstioCni: true });
    const istio = await startIstio();
    await waitFor("istio-cni's installer", () => istio.installations > 0);
    await waitFor("ours alone", () => {
      expect(left().chain).toEqual(["bridge", `${name} (ours)`]);
      return true;
    });
    await istio.stop({ daemonSetStays: true });
    await waitFor("the rest to go", () => {
      expect(left()).toEqual(oursUnder(name));
      return true;
    });
  }, 20_000);
});

test("an agent beside an istio-cni that keeps coming back says so, and puts growing pauses between its answers", async () => {
  const { fights, installer } = await startOurs(own, { replaceIstioCni: true });
  await startIstio();
  await waitFor("the fight", () => fights.length === 1, { timeoutMs: 15_000 });
  expect(fights[0]).toContain("uninstall istio-cni");
  expect(installer.chain.isFighting).toBe(true);
}, 30_000);

test("an agent that was not told to replace istio-cni stands aside, whether that was there before or comes later", async () => {
  leaveIstio();
  write([{ type: "bridge" }, theirs]);
  const { states } = await startOurs(own);
  expect([types(), states.at(-1)]).toEqual([
    ["bridge", "istio-cni"],
    expect.stringMatching(
      /^istio-cni is in the CNI chain "10-a.conflist".*REPLACE_ISTIO_CNI=true.*uninstall istio-cni/,
    ),
  ]);
  write([{ type: "bridge" }]);
  await waitFor("our entry", () => types().includes("ambient-cni"));
  const istio = await startIstio();
  await waitFor("ours to go", () => {
    expect(left().chain).toEqual(["bridge", "istio-cni"]);
    return true;
  });
  expect(existsSync(join(runDir, "istio-cni-kubeconfig"))).toBe(true);
  await istio.stop({ daemonSetStays: false });
  await waitFor("our entry again", () => types().includes("ambient-cni") && states.at(-1) === undefined);
}, 30_000);

test("istio-cni's installer replaces entry and launcher of an agent in its DaemonSet, and ours replaces both in turn", async () => {
  for (let round = 0; round < 3; round++) {
    const { installer } = await startOurs(dropIn);
    await waitFor("ours alone", () => {
      expect(left()).toEqual(oursUnder("istio-cni"));
      return true;
    });
    await installer.stop();
    const istio = await startIstio();
    await waitFor("istio-cni's alone", () => {
      expect(left()).toEqual({
        chain: ["bridge", "istio-cni"],
        bin: ["istio-cni"],
        run: ["istio-cni-kubeconfig"],
      });
      return true;
    });
    expect(readFileSync(join(binDir, "istio-cni")).length).toBeGreaterThan(5_000_000);
    await istio.stop({ daemonSetStays: true });
  }
}, 30_000);

test("a launcher and an entry of an earlier version under our own name go from istio-cni's DaemonSet", async () => {
  write([
    { type: "bridge" },
    { type: "ambient-cni", cni_agent_run_dir: "/x", agent_wait_seconds: 1, exempt: [] },
  ]);
  writeFileSync(join(binDir, "ambient-cni"), "an earlier one", { mode: 0o755 });
  await startOurs(dropIn);
  await waitFor("the rest to go", () => {
    expect(left()).toEqual(oursUnder("istio-cni"));
    return true;
  });
});

test("the entry in istio-cni's DaemonSet has what istio-cni's plugin reads", () => {
  const env = {
    NODE_NAME: "n",
    POD_NAME: dropIn,
    POD_NAMESPACE: "istio-system",
    EXCLUDE_NAMESPACES: "kube-system",
  };
  expect(chainEntry(loadConfig({ env, args: [] }))).toEqual({
    type: "istio-cni",
    cni_agent_run_dir: "/var/run/istio-cni",
    agent_wait_seconds: 10,
    exempt: ["kube-system", "istio-system/istio-cni-node-", "istio-system/ambient-cni-node-"],
    ambient_enabled: true,
    enablement_selectors: [
      {
        podSelector: {
          matchExpressions: [{ key: "istio.io/dataplane-mode", operator: "In", values: ["ambient"] }],
        },
        namespaceSelector: {},
      },
      {
        podSelector: {
          matchExpressions: [{ key: "istio.io/dataplane-mode", operator: "NotIn", values: ["none"] }],
        },
        namespaceSelector: {
          matchExpressions: [{ key: "istio.io/dataplane-mode", operator: "In", values: ["ambient"] }],
        },
      },
    ],
    exclude_namespaces: ["kube-system"],
    pod_namespace: "istio-system",
  });
});
