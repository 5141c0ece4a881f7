// SPDX-License-Identifier: Apache-2.0
// The lists of pods that may start while the agent is away, as the launcher reads them.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import {
  chainExemptions,
  ExemptNamespaces,
  exemptListName,
  exemptListPath,
  removeExemptList,
} from "../../src/install/exempt-namespaces.ts";
import { parseVerdicts } from "../../src/install/namespace-verdicts.ts";
import { NodeState } from "../../src/kube/node-state.ts";
import { defaultSelectors, type EnablementSelector } from "../../src/kube/selectors.ts";
import { type Clock, systemClock } from "../../src/loop/clock.ts";
import { type KubeFixture, recordingLogger, startKube } from "../kube/kube-fixture.ts";
import { waitFor } from "../support/api-server.ts";
import { FakeClock } from "../support/fake-clock.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

test.each([
  [
    { podNamespace: "istio-system", podName: "istio-cni-node-x7k2p" },
    ["a", "kube-system", "istio-system/istio-cni-node-", "istio-system/ambient-cni-node-"],
  ],
  [{ podNamespace: "istio-system", podName: "" }, ["a", "kube-system"]],
  [{ podNamespace: "", podName: "istio-cni-node-x7k2p" }, ["a", "kube-system"]],
  [{ podNamespace: "istio-system", podName: "agent" }, ["a", "kube-system"]],
])("the chain's list for %o", (pod, expected) => {
  expect(chainExemptions({ excludeNamespaces: new Set(["kube-system", "a"]), ...pod })).toEqual(expected);
});

interface Setup extends KubeFixture {
  readonly exempt: ExemptNamespaces;
  readonly path: string;
  readonly binDir: string;
  readonly log: ReturnType<typeof recordingLogger>;
  /** Names with the verdict "start". */
  starting(): string[];
  /** The agent that comes next, with the same disk. */
  next(options?: StartOptions): Promise<Setup>;
}

interface StartOptions {
  readonly policy?: "hold" | "namespace";
  readonly selectors?: readonly EnablementSelector[];
  readonly clock?: Clock;
  readonly kube?: KubeFixture;
  readonly binDir?: string;
}

async function start(options: StartOptions = {}): Promise<Setup> {
  const { policy = "namespace", selectors = defaultSelectors, clock = systemClock } = options;
  const kube = options.kube ?? (await startKube());
  const binDir = options.binDir ?? mkdtempSync(join(tmpdir(), "ambient-exempt-"));
  if (options.kube === undefined) {
    cleanups.push(() => kube[Symbol.asyncDispose]());
    cleanups.push(() => rmSync(binDir, { recursive: true, force: true }));
    putNamespace(kube, "mesh", { [mode]: "ambient" });
    putNamespace(kube, "plain");
    putNamespace(kube, "batch");
  }
  const node = new NodeState({ client: kube.client, nodeName: "n1", log: recordingLogger() });
  cleanups.push(() => node.stop());
  node.start();
  await node.waitForSync();
  const path = exemptListPath({ runDir: "/nowhere", install: { enabled: true, binDir } });
  const log = recordingLogger();
  const exempt = new ExemptNamespaces({ path, policy, selectors, node, log, clock });
  cleanups.push(() => exempt.stop());
  return {
    ...kube,
    exempt,
    path,
    binDir,
    log,
    starting: () => [...parseVerdicts(readFileSync(path, "utf8")).starting],
    async next(more = {}) {
      await exempt.stop();
      await node.stop();
      return await start({ ...options, kube, binDir, ...more });
    },
  };
}

const mode = "istio.io/dataplane-mode";
let made = 0;

function putNamespace(kube: KubeFixture, name: string, labels: Record<string, string> = {}): void {
  const uid = `${name}-${++made}`;
  kube.server.put("namespaces", { metadata: { name, uid, labels } });
}

function label(kube: KubeFixture, name: string, labels: Record<string, string>): void {
  kube.server.edit("namespaces", { name }, ({ metadata }) => {
    metadata.labels = labels;
  });
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

const all: EnablementSelector = { podSelector: [], namespaceSelector: [] };
const unlabelled: EnablementSelector = {
  podSelector: [{ key: mode, operator: "NotIn", values: ["none"] }],
  namespaceSelector: [],
};

test("the list lies beside the launcher; of an agent that installs none in its run dir", () => {
  const install = { enabled: true, binDir: "/host/opt/cni/bin" };
  expect(exemptListPath({ runDir: "/run/x", install })).toBe(
    "/host/opt/cni/bin/ambient-cni.exempt-namespaces",
  );
  expect(exemptListPath({ runDir: "/run/x", install: { ...install, enabled: false } })).toBe(
    "/run/x/ambient-cni.exempt-namespaces",
  );
});

test("the list starts every namespace that is outside the mesh, and follows their labels", async () => {
  const setup = await start();
  await setup.exempt.start();
  expect(setup.starting()).toEqual(["batch", "plain"]);
  expect(statSync(setup.path).mode & 0o777).toBe(0o600);
  label(setup, "batch", { [mode]: "ambient" });
  await waitFor("a namespace that joined is held", () => setup.starting().join() === "plain");
  putNamespace(setup, "new");
  await waitFor("a new namespace starts", () => setup.starting().join() === "new,plain");
  putNamespace(setup, "old", { "istio-injection": "enabled" });
  setup.server.delete("namespaces", "plain");
  await waitFor("one that is gone, and one with sidecars do not", () => setup.starting().join() === "new");
  expect(readdirSync(setup.binDir)).toEqual([exemptListName]);
});

test("a namespace that was of the mesh once is held, also by the agents that come after, until it is made anew", async () => {
  const first = await start();
  await first.exempt.start();
  label(first, "mesh", {});
  putNamespace(first, "later");
  await waitFor("the change", () => first.starting().includes("later"));
  expect(first.starting()).not.toContain("mesh");
  const second = await first.next();
  await second.exempt.start();
  expect(second.starting()).toEqual(["batch", "later", "plain"]);
  second.server.delete("namespaces", "mesh");
  putNamespace(second, "mesh");
  await waitFor("another of that name starts", () => second.starting().includes("mesh"));
});

test("a namespace that was made anew while no agent was there is not taken for the one before", async () => {
  const first = await start();
  await first.exempt.start();
  first.server.delete("namespaces", "plain");
  putNamespace(first, "plain", { [mode]: "ambient" });
  first.server.delete("namespaces", "mesh");
  putNamespace(first, "mesh");
  const second = await first.next();
  await second.exempt.start();
  expect(second.starting()).toEqual(["batch", "mesh"]);
});

test.each([
  ["opts in by its own label", { labels: { [mode]: "ambient" } }],
  ["has a sidecar", { annotations: { "sidecar.istio.io/status": "{}" } }],
])("a namespace is held once a pod that %s was seen, however shortly", async (_what, metadata) => {
  const setup = await start();
  await setup.exempt.start();
  const object = {
    metadata: { name: "web", namespace: "plain", uid: "u1", ...metadata },
    spec: { nodeName: "n1" },
  };
  setup.server.put("pods", object);
  await waitFor("the namespace to be held", () => setup.starting().join() === "batch");
  setup.server.delete("pods", "web", "plain");
  const second = await setup.next();
  await second.exempt.start();
  expect(second.starting()).toEqual(["batch"]);
});

test("pods that say nothing, and those of the host's network, hold no namespace", async () => {
  const setup = await start();
  setup.server.put("pods", {
    metadata: { name: "a", namespace: "plain", uid: "u1", labels: { [mode]: "none" } },
    spec: { nodeName: "n1" },
  });
  setup.server.put("pods", {
    metadata: { name: "b", namespace: "plain", uid: "u2", labels: { [mode]: "ambient" } },
    spec: { nodeName: "n1", hostNetwork: true },
  });
  await setup.exempt.start();
  expect(setup.starting()).toEqual(["batch", "plain"]);
});

test("with other selectors nothing of before counts", async () => {
  const first = await start({ selectors: [all] });
  await first.exempt.start();
  expect(first.starting()).toEqual([]);
  const second = await first.next({ selectors: defaultSelectors });
  await second.exempt.start();
  expect(second.starting()).toEqual(["batch", "plain"]);
});

test("a list that cannot be written is tried again until it can, and said once", async () => {
  const clock = new FakeClock();
  const setup = await start({ clock });
  rmSync(setup.binDir, { recursive: true });
  await setup.exempt.start();
  expect(clock.pendingCount).toBe(1);
  clock.advance(1_000);
  await waitFor("the second try to fail", () => clock.pendingCount === 1);
  expect(setup.log.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
  mkdirSync(setup.binDir);
  clock.advance(5_000);
  await waitFor("the list", () => exists(setup.path));
  expect(setup.starting()).toEqual(["batch", "plain"]);
  await setup.exempt.stop();
  expect(clock.pendingCount).toBe(0);
});

test.each([
  ["any pod belongs into the mesh", [all]],
  ["pods without a label belong into the mesh everywhere", [unlabelled, ...defaultSelectors]],
])("no namespace starts when %s", async (_what, selectors) => {
  const setup = await start({ selectors });
  await setup.exempt.start();
  expect(setup.starting()).toEqual([]);
});

test("the policy hold takes an earlier list away", async () => {
  const setup = await start({ policy: "hold" });
  writeFileSync(setup.path, "start plain\n");
  await setup.exempt.start();
  expect(exists(setup.path)).toBe(false);
});

test.each(["namespace", "hold"] as const)(
  "halves that a killed agent left go with the next start (%s)",
  async (policy) => {
    const setup = await start();
    await setup.exempt.start();
    const next = await setup.next({ policy });
    writeFileSync(`${setup.path}.17-4026531836.tmp`, "half");
    writeFileSync(`${setup.path}.tmp`, "somebody else's");
    await next.exempt.start();
    expect(readdirSync(setup.binDir).filter((name) => name.endsWith(".tmp"))).toEqual([
      `${exemptListName}.tmp`,
    ]);
  },
);

test("the list stays when the agent ends, and goes when asked to, with halves of it", async () => {
  const setup = await start();
  await setup.exempt.start();
  await setup.exempt.stop();
  expect(setup.starting()).toEqual(["batch", "plain"]);
  writeFileSync(`${setup.path}.17.tmp`, "");
  writeFileSync(join(setup.binDir, "bridge"), "");
  await removeExemptList(setup.binDir);
  expect(readdirSync(setup.binDir)).toEqual(["bridge"]);
});
