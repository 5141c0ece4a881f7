// SPDX-License-Identifier: Apache-2.0
// Leaving a node, as the kernel, the runtime's folders and the pods see it.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./uninstall.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "uninstall.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("uninstall", () => {
  test.each(["nft", "legacy"] as const)(
    "with iptables-%s takes everything of ours out of pods, host and folders, and nothing else",
    { timeout: 90_000 * patience() },
    async (variant) => {
      const { dry, first, second } = await node.call.wholeWay(variant);
      expect(dry.output).toMatch(/chain: would remove our entry in "10-podnet.conflist"/);
      expect(dry.output).toMatch(/pods: would remove the redirection of/);
      expect(dry.output).toMatch(/nothing was changed\n$/);
      expect(dry.code).toBe(0);
      expect(first.output.split("\n")).toEqual([
        'chain: took our entry out of "10-podnet.conflist"',
        "pods: removed the redirection of 4 network namespaces",
        expect.stringMatching(
          /^host: removed chain ISTIO_POSTRT, ipset istio-inpod-probes-v4.*, table inet istio-ambient-nat$/,
        ),
        'launcher: removed "/run/node/bin/ambient-cni"',
        expect.stringMatching(/^run dir: removed .*"\/var\/run\/ztunnel\/ztunnel.sock"$/),
        expect.stringMatching(/^note: pods: istiod is not told: pods keep the annotation .*redirection/),
        "nothing is left but what the notes say",
        "",
      ]);
      expect(second).toEqual({ code: 0, output: "nothing to do: nothing of ambient-cni is on this node\n" });
    },
  );

  test("takes a pod's annotation before its redirection", { timeout: 60_000 * patience() }, async () => {
    const told = await node.call.withApi(undefined);
    expect(told).toMatchObject({ code: 0, captured: false, annotation: "none" });
    expect(told.output).toMatch(/nothing of ambient-cni is left on this node/);
  });

  test("leaves a pod in the mesh whose annotation it may not take away", {
    timeout: 60_000 * patience(),
  }, async () => {
    const told = await node.call.withApi(403);
    expect(told).toMatchObject({ code: 1, captured: true, annotation: "enabled" });
    expect(told.output).toMatch(/left: pods: all pods stay in the mesh/);
    expect(told.output).toMatch(/chain: took our entry out/);
  });

  test("that is killed at any moment is finished by the next run", {
    timeout: 90_000 * patience(),
  }, async () => {
    const delaysMs = [60, 90, 110, 130, 150, 170, 190, 220, 250, 300, 400, 600];
    expect(await node.call.killed(delaysMs)).toBeGreaterThan(5);
  });

  test("refuses while an agent runs", { timeout: 60_000 * patience() }, async () => {
    const { code, output } = await node.call.liveAgent();
    expect(code).toBe(1);
    expect(output).toMatch(/an agent.*still runs on this node.*delete its DaemonSet first/);
  });

  test("answers the launcher meanwhile: DEL succeeds, ADD fails at once, an exempt pod starts", {
    timeout: 60_000 * patience(),
  }, async () => {
    const { del, add, exempt, run } = await node.call.callsMeanwhile();
    expect(del).toBe("");
    expect(add).toMatch(/ambient-cni is leaving this node/);
    expect(JSON.parse(exempt)).toEqual({ cniVersion: "1.0.0", ips: [] });
    expect(run.output).toMatch(/launcher: removed/);
    expect(run.code).toBe(0);
  });

  test("leaves the launcher to a runtime that keeps the chain of its pods, until they are gone", {
    timeout: 60_000 * patience(),
  }, async () => {
    const { kept, afterwards } = await node.call.keptChains();
    expect(kept.output).toMatch(
      /note: launcher: left "\/run\/node\/bin\/ambient-cni": the runtime keeps the chain of 1/,
    );
    expect(kept.code).toBe(0);
    expect(afterwards.output).toMatch(/launcher: removed/);
    expect(afterwards.code).toBe(0);
  });

  test("needs no run dir", { timeout: 60_000 * patience() }, async () => {
    expect(await node.call.afterReboot()).toMatchObject({ code: 0 });
  });

  test("says what it cannot write, and keeps the launcher that the chain still names", {
    timeout: 60_000 * patience(),
  }, async () => {
    const { stuck, afterwards } = await node.call.chainReadOnly();
    expect(stuck.output).toMatch(/left: chain: .*read-only file system/);
    expect(stuck.output).toMatch(/left: launcher: .*stays while the chain names it/);
    expect(stuck.code).toBe(1);
    expect(afterwards.code).toBe(0);
  });

  test("leaves a socket that somebody serves, but not the leaving agent's own", async () => {
    const { command, agent } = await node.call.servedSocket();
    expect(command.output).toMatch(/left: run dir: "\/var\/run\/istio-cni\/state.sock": a process serves it/);
    expect(command.code).toBe(1);
    expect(agent).toMatchObject({ notes: [], left: [] });
  });

  test("by an agent leaves everything to its successor", async () => {
    const notes = ["another agent serves this node already: everything is left to it"];
    expect(await node.call.successor()).toEqual({ done: [], notes, left: [] });
  });
});
