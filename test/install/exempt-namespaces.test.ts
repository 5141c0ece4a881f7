// SPDX-License-Identifier: Apache-2.0
// The lists of pods that may start while the agent is away, as the launcher reads them.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { chainExemptions, ExemptNamespaces } from "../../src/install/exempt-namespaces.ts";
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
  readonly runDir: string;
  lines(): string[];
}

interface StartOptions {
  readonly selectors?: readonly EnablementSelector[];
  readonly clock?: Clock;
}

async function start(
  policy: "hold" | "namespace",
  { selectors = defaultSelectors, clock = systemClock }: StartOptions = {},
): Promise<Setup> {
  const kube = await startKube();
  cleanups.push(() => kube[Symbol.asyncDispose]());
  putNamespace(kube, "mesh", "ambient");
  putNamespace(kube, "plain");
  putNamespace(kube, "batch");
  const node = new NodeState({ client: kube.client, nodeName: "n1", log: recordingLogger() });
  cleanups.push(() => node.stop());
  node.start();
  await node.waitForSync(AbortSignal.timeout(5000));
  const runDir = mkdtempSync(join(tmpdir(), "ambient-exempt-"));
  cleanups.push(() => rmSync(runDir, { recursive: true, force: true }));
  const exempt = new ExemptNamespaces({ runDir, policy, selectors, node, log: recordingLogger(), clock });
  cleanups.push(() => exempt.stop());
  const path = join(runDir, "exempt-namespaces");
  const lines = (): string[] => readFileSync(path, "utf8").split("\n").slice(0, -1);
  return { ...kube, exempt, path, runDir, lines };
}

function putNamespace(kube: KubeFixture, name: string, mode?: string): void {
  const labels = mode === undefined ? {} : { "istio.io/dataplane-mode": mode };
  kube.server.put("namespaces", { metadata: { name, labels } });
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

test("the list names every namespace that no namespace selector matches, and follows their labels", async () => {
  const setup = await start("namespace");
  await setup.exempt.start();
  expect(setup.lines()).toEqual(["batch", "plain"]);
  expect(statSync(setup.path).mode & 0o777).toBe(0o600);
  putNamespace(setup, "batch", "ambient");
  await waitFor("a namespace that joined is off the list", () => setup.lines().join() === "plain");
  putNamespace(setup, "new");
  await waitFor("a new namespace is on the list", () => setup.lines().join() === "new,plain");
  expect(readdirSync(setup.runDir)).toEqual(["exempt-namespaces"]);
});

test("a list that cannot be written is tried again until it can", async () => {
  const clock = new FakeClock();
  const setup = await start("namespace", { clock });
  rmSync(setup.runDir, { recursive: true });
  await setup.exempt.start();
  expect(clock.pendingCount).toBe(1);
  clock.advance(1_000);
  await waitFor("the second try to fail", () => clock.pendingCount === 1);
  mkdirSync(setup.runDir);
  clock.advance(5_000);
  await waitFor("the list", () => exists(setup.path));
  expect(setup.lines()).toEqual(["batch", "plain"]);
  await setup.exempt.stop();
  expect(clock.pendingCount).toBe(0);
});

test("nobody is exempt when any namespace may have pods in the mesh", async () => {
  const setup = await start("namespace", { selectors: [{ podSelector: [], namespaceSelector: [] }] });
  await setup.exempt.start();
  expect(setup.lines()).toEqual([]);
});

test("the policy hold takes an earlier list away", async () => {
  const setup = await start("hold");
  writeFileSync(setup.path, "plain\n");
  await setup.exempt.start();
  expect(exists(setup.path)).toBe(false);
});

test("the list stays when the agent ends", async () => {
  const setup = await start("namespace");
  await setup.exempt.start();
  await setup.exempt.stop();
  expect(setup.lines()).toEqual(["batch", "plain"]);
});

test("nobody is exempt when pods without a label belong into the mesh everywhere", async () => {
  const optOut = { key: "istio.io/dataplane-mode", operator: "NotIn", values: ["none"] } as const;
  const selectors = [{ podSelector: [optOut], namespaceSelector: [] }, ...defaultSelectors];
  const setup = await start("namespace", { selectors });
  await setup.exempt.start();
  expect(setup.lines()).toEqual([]);
});
