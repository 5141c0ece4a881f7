// SPDX-License-Identifier: Apache-2.0
// Pods that Istio's injector made for a node agent, under a real containerd: they start with their rules, wait for whoever writes them, and
// those that started without are repaired. Their init container checks its redirection as istio-validation does.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import { patience } from "../support/node/patience.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";
import { onePodRepaired, throughProxy } from "./support/sidecar-expectations.ts";

type Inside = typeof import("./sidecar.inside.ts");
const lacks = await whatCriLacks();

describe.skipIf(lacks !== undefined)("a pod with a sidecar", { timeout: 60_000 * patience() }, () => {
  let real: RealNode<Inside> | undefined;
  const inside = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "sidecar.inside.ts"));
    await inside().start();
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("starts with its redirection, and its traffic goes by its proxy both ways", async () => {
    expect(await inside().starts()).toEqual({ exitCodes: [0], ...throughProxy });
  });

  test("waits while the agent is away over a boot, and starts with its rules when it is back", async () => {
    const { refusals, rules, traffic } = await inside().withoutAgent();
    for (const { error } of refusals)
      expect(error).toMatch(
        /Cannot get an answer from the ambient-cni agent of this node.*The pod is held because pods of its namespace may belong to the mesh/,
      );
    expect(rules).toBeGreaterThan(15);
    expect(traffic).toEqual({ exitCodes: [0], ...throughProxy });
  });

  test("waits while the API server is away, and starts with its rules when it is back", async () => {
    const { refusals, rules, traffic } = await inside().withoutApi();
    for (const { error } of refusals)
      expect(error).toMatch(
        /cannot know whether pod "shop\/POD" belongs to the ambient mesh: .*ECONNREFUSED.*; it is held until the API server answers/,
      );
    expect(rules).toBeGreaterThan(15);
    expect(traffic).toEqual({ exitCodes: [0], ...throughProxy });
  });

  test("that started without rules gets them in place, and its init container succeeds", async () => {
    expect(await inside().repairedInPlace()).toEqual({
      events: ["RepairBrokenPod"],
      counted: [onePodRepaired("repair")],
      traffic: { exitCodes: [126, 0], ...throughProxy },
    });
  });

  test("that started without rules is deleted, as the pod it was, and the next one starts", async () => {
    const { identity, ...done } = await inside().repairedByDeletion();
    expect(done).toEqual({
      events: ["DeleteBrokenPod"],
      counted: [onePodRepaired("delete")],
      preconditions: [identity],
      successor: { exitCodes: [0], ...throughProxy },
    });
  });

  test("that started without rules is labelled, and otherwise left as it is", async () => {
    expect(await inside().repairedByLabel()).toEqual({
      events: ["LabelBrokenPod"],
      counted: [onePodRepaired("label")],
      labels: { "cni.istio.io/uninitialized": "true" },
      isLeaving: false,
    });
  });

  test("and an istio-init of its own is not touched", async () => {
    expect(await inside().withInit()).toEqual({ changes: 0, looks: 2 });
  });

  test("leaves nothing when it ends", async () => {
    await inside().end();
  });
});
