// SPDX-License-Identifier: Apache-2.0
// The agent as its peers meet it, on a node of its own: what it refuses, what it survives, what it leaves behind.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./agent.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "agent.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("bad input", () => {
  test("a namespace that is the host's, or none, is refused with its path, and the host's rules stay as they are", async () => {
    const answers = await node.call.badNamespaces();
    expect(answers["the host's"]).toMatch(/"\/proc\/1\/ns\/net" is the host's own network namespace/);
    expect(answers["a plain file"]).toMatch(/plain-file.*is not a namespace/);
    expect(answers["a namespace of another kind"]).toMatch(/ns\/mnt.*not a network/);
    expect(answers.missing).toMatch(/\/run\/netns\/nobody/);
  });

  test("a pod the API server does not know, or knows as another one, is held with the reason", async () => {
    const { unknown, replaced } = await node.call.unknownPods();
    expect(unknown).toMatch(/"mesh\/never-created" is not known to the API server.*kubelet tries again/);
    expect(replaced).toMatch(/was replaced meanwhile/);
  });

  test("a peer that is not root cannot reach the plugin socket", async () => {
    expect(await node.call.strangers()).toBe("EACCES");
  });

  test("DEL succeeds in every form and touches only what it names", async () => {
    await node.call.manyDels();
  });
});

describe("ADD", () => {
  test("touches nothing of a pod outside the mesh", async () => {
    await node.call.outsidePod();
  });

  test("fails with ztunnel's words when ztunnel refuses, and succeeds when it does not any more", async () => {
    const message = await node.call.refusedOnce();
    expect(message).toMatch(/Cannot capture pod "mesh\/pod-\d+".*address in use.*kubectl get pods/);
  });

  test("that fails leaves nothing in the namespace, at ztunnel or in the agent", async () => {
    await node.call.nothingHalfDone();
  });

  test("waits for ztunnel and says so when it does not come", async () => {
    const { message, lateMs } = await node.call.withoutZtunnel();
    expect(message).toMatch(/no ztunnel connection for 2 s.*-l app=ztunnel/);
    expect(lateMs).toBeLessThan(2000);
  });

  test("does not wait for ztunnel for a pod that is being deleted", async () => {
    const { message, afterMs } = await node.call.deletedMeanwhile();
    expect(message).toMatch(/Cannot capture pod "mesh\/pod-\d+".*it is being deleted/);
    expect(afterMs).toBeLessThan(1000);
  });

  test("repeated, or twice at once, writes nothing again", async () => {
    await node.call.addTwice();
  });

  test("of a rebuilt sandbox takes over, and a late DEL of the old one changes nothing", async () => {
    await node.call.rebuiltSandbox();
  });

  test("survives an agent that is killed in the middle of it", async () => {
    await node.call.killedInAdd();
  });

  test("holds a pod while the API server cannot be asked, and captures it when it can", async () => {
    expect(await node.call.withoutApi()).toMatch(
      /cannot know whether pod "mesh\/pod-\d+" belongs to the ambient mesh.*held/,
    );
  });

  test("that came and went while the watch was broken is forgotten with the next list", {
    timeout: 40_000 * patience(),
  }, async () => {
    await node.call.neverAnnounced();
  });

  test("that is deleted by force keeps its rules for as long as its processes live", async () => {
    await node.call.deletedByForce();
  });

  test("of an excluded namespace needs no API server", async () => {
    await node.call.excludedWithoutApi();
  });

  test("of a namespace outside the mesh needs none either, one of an unknown namespace is held", async () => {
    expect(await node.call.outsideWithoutApi()).toMatch(/cannot know whether pod "unheard-of\/pod-\d+"/);
  });

  test("by istio-cni's own plugin event captures too", async () => {
    expect(await node.call.istioEvent()).toBe(200);
  });
});

test("CHECK always succeeds, and what is wrong is mended because it asked", {
  timeout: 60_000 * patience(),
}, async () => {
  expect(await node.call.check()).toEqual({
    captured: "fine",
    drifted: "fine",
    withoutZtunnel: "fine",
    withoutAgent: "fine",
    gone: "fine",
  });
});

describe("running pods", () => {
  test("are not captured again after a DEL that comes before their processes end", {
    timeout: 30_000 * patience(),
  }, async () => {
    await node.call.delBeforeTheProcessesEnd();
  });

  test("keep annotation and ztunnel over a restart, with or without the annotation", {
    timeout: 30_000 * patience(),
  }, async () => {
    expect(await node.call.quietRestart()).toEqual({ patches: 0, removed: false });
  });

  test("are not cut off by a label while ztunnel is away, and are captured when it comes", async () => {
    await node.call.labelWithoutZtunnel();
  });

  test("get back what somebody took out of them", { timeout: 60_000 * patience() }, async () => {
    await node.call.drift();
  });

  test("tell in Events what is wrong with them and what to do", {
    timeout: 60_000 * patience(),
  }, async () => {
    const seen = await node.call.events();
    expect(seen.AmbientZtunnelRefused).toMatch(/port taken.*kubectl get pods -A -l app=ztunnel/);
    expect(seen.AmbientRepaired).toMatch(/IPv4: .*rule.*was put back|was put back: IPv4: .*rule/);
    expect(seen.AmbientWaitingForZtunnel).toMatch(/no ztunnel connection.*-l app=ztunnel/);
  });

  test("answer the host's probes although ztunnel refuses everything", async () => {
    expect(await node.call.probes()).toEqual({
      before: "10.210.0.1",
      captured: "169.254.7.127",
      entries: 'IP comment "UID"',
    });
  });

  test("follow their annotations", async () => {
    await node.call.overrides();
  });

  test("are as the labels of a backup say that was put in the place of the API server's store", {
    timeout: 60_000 * patience(),
  }, async () => {
    expect(await node.call.restoredStore()).toBe(1);
  });

  test("are as their labels say after a restart of the agent, without a write for those that were right", async () => {
    await node.call.changesWhileAway();
  });
});

test("nothing is held when all pods are gone", async () => {
  expect(await node.call.remains()).toEqual({ netnsInodes: [], held: 0 });
});
