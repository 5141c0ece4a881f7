// SPDX-License-Identifier: Apache-2.0
// Injected pods under a real containerd, with each form of rules, and with rules that somebody broke.
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

  test.each([
    ["iptables-legacy", "legacy"],
    ["iptables-nft", "nft"],
  ])("starts with its redirection in %s", async (_, variant) => {
    expect(await inside().startsWith({ FORCE_IPTABLES_BINARY: variant })).toEqual({
      exitCodes: [0],
      ...throughProxy,
      variants: [variant],
    });
  });

  test("starts with its redirection where native nftables is asked for", async () => {
    const { variants, ...traffic } = await inside().startsWith({ NATIVE_NFTABLES: "true" });
    expect(traffic).toEqual({ exitCodes: [0], ...throughProxy });
    expect(variants).not.toContain("legacy");
  });

  test("starts with its redirection where the agent serves sidecars alone", async () => {
    expect(await inside().startsWith({ AMBIENT_ENABLED: "false" })).toEqual({
      exitCodes: [0],
      ...throughProxy,
      variants: ["nft"],
    });
  });

  test("whose rules were broken before its check gets them in place, and its init container succeeds", async () => {
    expect(await inside().brokenIsRepaired()).toEqual({
      events: ["RepairBrokenPod"],
      counted: [onePodRepaired("repair")],
      traffic: { exitCodes: [126, 0], ...throughProxy },
    });
  });

  test("whose sandbox dies has its rules in the next one, where they are looked after", async () => {
    expect(await inside().sandboxDies()).toEqual({ exitCodes: [0], ...throughProxy });
  });

  test("of both families starts although its loopback device comes up late", async () => {
    expect(await inside().withSlowLoopback()).toEqual({ exitCodes: [0], ...throughProxy });
  });
});
