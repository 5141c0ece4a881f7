// SPDX-License-Identifier: Apache-2.0
// The agent's way into a node and out of it, as one: what it waits for, keeps, leaves in place and takes away.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./install.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "install.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const chained = ["bridge", "ambient-cni"];

test("an agent says what is missing on a bare node, and installs itself when it is there", {
  timeout: 60_000 * patience(),
}, async () => {
  const { reasons, types, entry, sameLauncher } = await node.call.bareNode();
  expect(reasons[0]).toMatch(/install: .*\/run\/node\/cni\/bin.*mount the node's CNI plugin folder/);
  expect(reasons[1]).toMatch(/install: Waiting for a CNI configuration.*MOUNTED_CNI_NET_DIR/);
  expect(types).toEqual(chained);
  expect(entry).toEqual({
    type: "ambient-cni",
    cni_agent_run_dir: "/var/run/istio-cni",
    agent_wait_seconds: 10,
    exempt: ["kube-system", "istio-system/ambient-cni-node-", "istio-system/istio-cni-node-"],
  });
  expect(sameLauncher).toBe(true);
});

test("launcher and entry come back when somebody takes them away", {
  timeout: 30_000 * patience(),
}, async () => {
  expect(await node.call.damage()).toBeLessThan(1000);
});

test("a stop leaves the node as it is, also when the API server cannot be asked", {
  timeout: 60_000 * patience(),
}, async () => {
  const look = { types: chained, files: ["ambient-cni", "ambient-cni.exempt-namespaces"], code: 0 };
  expect(await node.call.stopAndStay()).toEqual([look, look]);
});

test("uninstall refuses while an agent would put everything back", async () => {
  const { code, stdout, types } = await node.call.uninstallBesideAgent();
  expect([code, types]).toEqual([1, chained]);
  expect(stdout).toMatch(/still runs on this node.*DaemonSet/);
});

test("the end of the DaemonSet takes everything off the node but the redirection of pods", {
  timeout: 60_000 * patience(),
}, async () => {
  expect(await node.call.leave()).toEqual({
    code: 0,
    annotation: "enabled",
    conflist: true,
    bin: [],
    net: ["10-net.conflist"],
    run: [],
    sets: "",
    rules: [],
    again: 0,
  });
});
