// SPDX-License-Identifier: Apache-2.0
// A runtime with NRI tells of every sandbox: what no ADD of ours announced is captured before a container of it exists, or gets none.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import type * as inside from "./nri.inside.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";
import { whatNriLacks } from "./support/nri-means.ts";

type Inside = typeof inside;
const lacks = (await whatCriLacks()) ?? (await whatNriLacks());

describe.skipIf(lacks !== undefined)("a runtime with NRI", () => {
  let real: RealNode<Inside> | undefined;
  const call = () => (real as RealNode<Inside>).module.call;

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "nri.inside.ts"));
    say(`NRI of ${await call().start()}`);
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await call().logs());
  });
  afterAll(async () => {
    await expectNothingLeft(real);
  });

  test("has a mesh pod whose chain lacks us captured before its first container, and told that it ended", async () => {
    const { runMs, sources } = await call().captured();
    expect(sources).toContain('ambient_cni_sandboxes{source="nri"} 1');
    say(`RunPodSandbox with the capture in it: ${Math.round(runMs)} ms`);
  });

  test("has 30 of 30 such pods captured, four at a time", async () => {
    const { slowestMs, answerMs } = await call().many(30);
    say(
      `30 such sandboxes: ${Math.round(answerMs)} ms for our answer, the slowest made in ${Math.round(slowestMs)} ms`,
    );
    // the runtime holds up all pods of the node meanwhile
    expect(answerMs).toBeLessThan(1_000);
  });

  test("without which the same pod starts outside the mesh", async () => {
    await call().control();
  });

  test("is answered at once about what an ADD announced, and about pods outside the mesh", async () => {
    expect(await call().others()).toEqual({ announced: 1, outside: 1 });
  });

  test("makes no container of a mesh pod that cannot be captured, with our sentence, until it is", async () => {
    const { message, runMs, createMs } = await call().held();
    expect(message).toMatch(
      /Cannot capture pod "mesh\/pod-\d+" for the ambient mesh: no ztunnel connection; check the ztunnel pod of this node/,
    );
    say(`without a ztunnel: sandbox ${Math.round(runMs)} ms, refused container ${Math.round(createMs)} ms`);
    // no wait for a ztunnel in either: all pods of the node would wait with it
    expect(runMs).toBeLessThan(3_000);
    expect(createMs).toBeLessThan(1_000);
  });

  test("starts it instead where NRI_REFUSE is false, and it is captured later", async () => {
    await call().passed();
  });

  test("tells an agent that was away of sandboxes that nobody could find", async () => {
    expect(await call().agentAway()).toBe('ambient_cni_sandboxes{source="nri"} 2');
  });

  test.each(["stop", "kill"] as const)("hears from us again after its own %s", async (how) => {
    await call().runtimeRenewed(how);
  });

  test("cuts off an agent that stands still, starts the pods, and tells of them once it goes on", async () => {
    const { firstMs, secondMs } = await call().stopped();
    say(
      `RunPodSandbox beside an agent that stands still: ${Math.round(firstMs)} ms, then ${Math.round(secondMs)} ms`,
    );
    // 2 s for the first; after that nobody waits for us
    expect(firstMs).toBeLessThan(6_000);
    expect(secondMs).toBeLessThan(2_000);
  });
});
