// SPDX-License-Identifier: Apache-2.0
// Every order in which an installation is deleted, and how it ends: nothing is held up, and no pod is half in the mesh.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";
import type { Step } from "./leaving.inside.ts";

type Inside = typeof import("./leaving.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "leaving.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

/** Of the node nothing is left but what its owner made. */
const nodeLeft = { code: 0, chain: "as it was", bin: [], run: [], host: "" };
const inMesh = { ...nodeLeft, pod: "captured", annotation: "enabled" };
const outOfMesh = { ...nodeLeft, pod: "free", annotation: "none" };

/**
 * Who deletes in which order, as far as the agent can tell: of its DaemonSet, its token and its rights. SIGTERM comes when the
 * garbage collector has got to its pod, soon or late.
 * Source: kubectl (order of the file); helm pkg/release/util UninstallOrder, which the Sail Operator runs in its finalizer;
 * istio/istio operator/pkg/uninstall/prune.go (NamespacedResources, then cluster's, in the foreground).
 */
const orders: readonly [who: string, steps: readonly Step[], hasRights: boolean][] = [
  ["kubectl delete daemonset", ["daemonset", "stop"], true],
  ["kubectl delete daemonset --cascade=foreground", ["daemonset-in-foreground", "stop"], true],
  ["kubectl delete -f, the account first", ["serviceaccount", "daemonset", "stop"], false],
  ["kubectl delete -f, the roles first", ["roles", "daemonset", "stop"], false],
  [
    "kubectl delete -f, the agent stopped between its rights and its DaemonSet",
    ["roles", "stop", "daemonset"],
    false,
  ],
  ["helm uninstall, or Sail's, and SIGTERM at once", ["daemonset", "stop", "roles", "serviceaccount"], true],
  ["helm uninstall, or Sail's, and SIGTERM late", ["daemonset", "roles", "serviceaccount", "stop"], false],
  [
    "istioctl uninstall --purge, and SIGTERM at once",
    ["daemonset-in-foreground", "stop", "serviceaccount", "roles"],
    true,
  ],
  [
    "istioctl uninstall --purge, and SIGTERM late",
    ["daemonset-in-foreground", "serviceaccount", "roles", "stop"],
    false,
  ],
  ["kubectl delete daemonset, under a policy that denies the patch", ["policy", "daemonset", "stop"], false],
  ["a node selector or affinity that does not match the node any more", ["affinity", "stop"], true],
];

describe.each(orders)("%s", (_who, steps, hasRights) => {
  test("leaves the node, and pods in the mesh", { timeout: 60_000 * patience() }, async () => {
    expect(await node.call.leave(steps, {})).toEqual(inMesh);
    await node.call.end();
  });

  const end = hasRights
    ? "takes pods out of it"
    : "leaves pods in the mesh, whose annotation nobody can take away";
  test(`with RELEASE_PODS_ON_UNINSTALL leaves the node, and ${end}`, {
    timeout: 60_000 * patience(),
  }, async () => {
    const left = await node.call.leave(steps, { RELEASE_PODS_ON_UNINSTALL: "true" });
    expect(left).toEqual(hasRights ? outOfMesh : inMesh);
    await node.call.end();
  });
});

test("an agent that is stopped while the API server has only just started leaves everything for the next one", {
  timeout: 60_000 * patience(),
}, async () => {
  const { chain, bin, pod, annotation } = await node.call.leave(["restart", "stop"], {});
  expect(chain).toContain('"cni_agent_run_dir"');
  expect(bin).toContain("istio-cni");
  expect({ pod, annotation }).toEqual({ pod: "captured", annotation: "enabled" });
  await node.call.end();
});

test("the next agent takes pods over that were left in the mesh, without a write", {
  timeout: 60_000 * patience(),
}, async () => {
  expect(await node.call.leave(["daemonset", "stop"], {})).toEqual(inMesh);
  expect(await node.call.takeOver()).toEqual({ writes: 0, pod: "captured", annotation: "enabled" });
});

test("a pod whose label goes stays in the mesh for as long as istiod has it there", {
  timeout: 60_000 * patience(),
}, async () => {
  expect(await node.call.unlabel()).toEqual([
    { pod: "captured", annotation: "enabled" },
    { pod: "free", annotation: "none" },
  ]);
});
