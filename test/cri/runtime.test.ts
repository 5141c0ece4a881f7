// SPDX-License-Identifier: Apache-2.0
// What this machine's container runtime asks of a chain, version by version, and what it makes of the answers.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { RealNode, say } from "../cluster/support/real-node.ts";
import type { Calls } from "./runtime.inside.ts";
import { chainVersion } from "./support/chain.ts";
import { whatCriLacks } from "./support/cri-means.ts";
import { expectNothingLeft } from "./support/nothing-left.ts";

type Inside = typeof import("./runtime.inside.ts");
const lacks = await whatCriLacks();
/** Source: CNI specification 1.1.0, "Version considerations". */
const hasStatus = chainVersion === "1.1.0";

describe.skipIf(lacks !== undefined)(`a runtime with a chain of CNI ${chainVersion}`, () => {
  let real: RealNode<Inside> | undefined;
  let runtime = "";
  const inside = () => (real as RealNode<Inside>).module.call;
  const seen = new Set<string>();
  const see = (calls: Calls): Calls => {
    for (const { verb } of calls.plugin) seen.add(verb);
    return calls;
  };

  beforeAll(async () => {
    real = await RealNode.start<Inside>(join(import.meta.dirname, "runtime.inside.ts"));
    const found = await inside().start();
    runtime = found.runtime;
    expect(found.chain).toBe(chainVersion);
  });
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") say(await inside().logs());
  });
  afterAll(async () => {
    say(`${runtime} asked of a chain of CNI ${chainVersion}: ${[...seen].sort().join(", ")}`);
    await expectNothingLeft(real);
  });

  test("asks ADD once and DEL twice, the second time without a namespace", async () => {
    const { plugin, agent } = see(await inside().life());
    expect(plugin.filter(({ verb }) => verb !== "STATUS")).toEqual([
      { verb: "ADD", netns: true },
      { verb: "DEL", netns: true },
      { verb: "DEL", netns: false },
    ]);
    expect(agent.filter((verb) => verb !== "STATUS")).toEqual(["ADD", "DEL", "DEL"]);
  });

  test("asks STATUS whenever the kubelet asks it, where the chain has it, and is told that all is well", async () => {
    const { calls, last } = await inside().ask(3);
    const { plugin, agent } = see(calls);
    const asked = plugin.filter(({ verb }) => verb === "STATUS");
    expect(asked).toHaveLength(hasStatus ? 3 : 0);
    expect(agent.filter((verb) => verb === "STATUS")).toHaveLength(asked.length);
    expect(last).toEqual({ ready: true, reason: "", message: "" });
  });

  test("keeps the node ready without the agent, where our entry names who is to start then; pods of the mesh are held", async () => {
    const { network, held } = await inside().away(true);
    expect(network).toEqual({ ready: true, reason: "", message: "" });
    expect(held).toMatch(/plugin type="ambient-cni".* Cannot get an answer from the ambient-cni agent/);
    await inside().back();
  });

  test("has a node that is not ready without the agent, where our entry names nobody, until the agent is back", async () => {
    const { network, held } = await inside().away(false);
    expect(network.ready).toBe(!hasStatus);
    if (hasStatus) expect(network.message).toMatch(/Cannot get an answer from the ambient-cni agent/);
    // the pods are the same: containerd does not ask STATUS before ADD
    expect(held).toMatch(/Cannot get an answer from the ambient-cni agent/);
    await inside().back();
  });

  test.each(["stop", "kill"] as const)(
    "comes back after its own %s and asks nothing for pods that run",
    async (how) => {
      const { plugin } = see(await inside().renewRuntime(how));
      expect(plugin.filter(({ verb }) => verb !== "STATUS")).toEqual([]);
    },
  );
});
