// SPDX-License-Identifier: Apache-2.0
// The agent of the bundle beside sidecar pods that started without their rules: nothing, a sentence, a label, or a deletion, as
// the settings ask for; and a repair in place is lent the pod's own network namespace.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./repair.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "repair.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

const untouched = { web: "as it was", broken: "as it was", sound: "as it was", elsewhere: "as it was" };
const counter = (labels: string, count: number) => `istio_cni_repair_pods_repaired_total{${labels}} ${count}`;

test("an agent that nobody asks to repair asks for no pods more than it needs, and leaves all as they are", async () => {
  expect(await node.call.withAgent({}, { acts: 0 })).toEqual({
    pods: untouched,
    events: [],
    counted: [],
    warned: [],
    listed: ["spec.nodeName=node-1"],
  });
});

test("a repair in place is lent the pod's own network namespace", async () => {
  expect(await node.call.lentInPlace()).toEqual({ lent: [{ pod: "shop/web", isItsOwn: true }], leftOpen: 0 });
});

test("broken pods of the node get the label", async () => {
  const label = '{"cni.istio.io/uninitialized":"true"}';
  expect(
    await node.call.withAgent({ REPAIR_ENABLED: "true", REPAIR_LABEL_PODS: "true" }, { acts: 2 }),
  ).toEqual({
    pods: { ...untouched, web: label, broken: label },
    events: ["broken LabelBrokenPod", "web LabelBrokenPod"],
    counted: [counter('type="label",result="success"', 2)],
    warned: [],
    listed: ["spec.nodeName=node-1", "spec.nodeName=node-1"],
  });
});

test("a selector that is none has nothing deleted, and the agent is not ready until it is put right", async () => {
  const env = { REPAIR_DELETE_PODS: "true", REPAIR_LABEL_SELECTORS: "app in (" };
  const { ready, broken } = await node.call.readinessWith(env);
  expect(ready).toMatch(/REPAIR_LABEL_SELECTORS="app in \(" .*; "REPAIR_ENABLED=false" is used instead/);
  expect(broken).not.toBe("deleted");
});

test("broken pods of the node are deleted, of those that are selected", async () => {
  const env = {
    REPAIR_ENABLED: "true",
    REPAIR_DELETE_PODS: "true",
    REPAIR_FIELD_SELECTORS: "metadata.name!=web",
    REPAIR_LABEL_SELECTORS: "cni.istio.io/uninitialized",
  };
  const { pods, ...outcome } = await node.call.withAgent(env, { acts: 1 });
  expect(pods).toMatchObject({
    web: expect.not.stringMatching("deleted"),
    broken: "deleted",
    ...{ sound: "as it was" },
  });
  expect(outcome).toEqual({
    events: ["broken DeleteBrokenPod"],
    counted: [counter('type="delete",result="success"', 1)],
    warned: [],
    listed: ["metadata.name!=web,spec.nodeName=node-1", "spec.nodeName=node-1"],
  });
});

test("as istio-cni's DaemonSet sets it, a running pod gets its rules in its own namespace", async () => {
  const env = { REPAIR_ENABLED: "true", REPAIR_REPAIR_PODS: "true", REPAIR_NODE_NAME: "node-1" };
  const { pods, ...outcome } = await node.call.withAgent(env, { acts: 1, writes: true });
  expect(pods.web).not.toBe("deleted");
  expect(outcome).toEqual({
    events: ["web RepairBrokenPod"],
    counted: [counter('type="repair",result="success"', 1)],
    warned: [],
    listed: ["spec.nodeName=node-1", "spec.nodeName=node-1"],
  });
  const redirects =
    "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006; -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001";
  expect((await node.call.rulesOfWeb())[0]).toBe(redirects);
});
