// SPDX-License-Identifier: Apache-2.0
// What doctor says of pods with a sidecar: from the agent's own reports, and from what the API server knows of their checks.
import { describe, expect, test } from "vitest";
import { loadCliConfig } from "../../src/cli/process-io.ts";
import { renderNode } from "../../src/cli/status-command.ts";
import { judgeAgent } from "../../src/diagnose/agent-check.ts";
import { allOf } from "../../src/diagnose/finding.ts";
import { checkUnserved, judgeSidecars } from "../../src/diagnose/sidecar-check.ts";
import type { ApiClient } from "../../src/kube/api-client.ts";
import { AgentState } from "../../src/status/agent-state.ts";
import type { ChainReport, NodeReport } from "../../src/status/node-state-report.ts";
import type { PodListReport } from "../../src/status/state-report.ts";
import { brokenPod } from "../repair/broken-pod.ts";
import { FakeAgent } from "../status/fake-agent.ts";

const sidecar = { dnsCapture: false, dualStack: false, dropInvalid: false };
const rules = {
  kind: "rules",
  message: "table nat cannot be read",
  remedy: "; see who writes there",
} as const;

async function reports(agent: FakeAgent): Promise<[NodeReport, PodListReport]> {
  const state = new AgentState(agent.facts());
  return [await state.node(), state.pods()];
}

/** A pod whose ADD this agent has not answered. */
function unanswered(agent: FakeAgent, name: string, phase: string): void {
  const facts = agent.add(name, { sidecar, state: "none" });
  agent.pods.set(facts.uid, { ...facts, phase });
  agent.places.delete(facts.uid);
  agent.forgetSidecars();
}

describe("by the agent's word", () => {
  test("a node without them has no finding", async () => {
    const agent = new FakeAgent();
    agent.add("a");
    expect(judgeSidecars(...(await reports(agent)))).toBeUndefined();
  });

  test("those that are right are counted, and those of another agent beside them", async () => {
    const agent = new FakeAgent();
    unanswered(agent, "old", "Running");
    agent.add("a", { sidecar });
    agent.add("b", { sidecar });
    agent.sidecarRecords.mended([{ kind: "missing-rule" }, { kind: "missing-jump" }]);
    expect(allOf(judgeSidecars(...(await reports(agent))))).toEqual([
      {
        id: "sidecars",
        level: "ok",
        what: "2 pods are redirected to a sidecar, 2 differences repaired; 1 pod is left as another agent made it",
        fix: null,
      },
    ]);
  });

  test("one that failed is named with its remedy, and is none of the mesh's pods", async () => {
    const agent = new FakeAgent();
    agent.add("a", { sidecar });
    agent.sidecarRecords.failed("uid-a", { state: "failed", ...rules }, 1);
    const found = judgeAgent(...(await reports(agent)));
    expect(found.find(({ id }) => id === "sidecars")).toEqual({
      id: "sidecars",
      level: "fail",
      what: "1 pod is not redirected to a sidecar as it should be, for example shop/a: table nat cannot be read",
      fix: "see who writes there",
    });
    expect(found.find(({ id }) => id === "pods")?.level).toBe("ok");
  });

  test("one that cannot be verified is worth a warning", async () => {
    const agent = new FakeAgent();
    agent.add("a", { sidecar });
    agent.sidecarRecords.failed("uid-a", { state: "unverified", ...rules }, 1);
    const found = judgeSidecars(...(await reports(agent)));
    expect(found).toMatchObject({ level: "warn", what: expect.stringContaining("shop/a: table nat cannot") });
  });

  test.each<[string, Partial<ChainReport>, string, RegExp]>([
    ["while our entry is in the chain", {}, "warn", /1 pod is waiting with a sidecar .*shop\/a$/],
    [
      "while another entry is in our place",
      { installed: false, fault: "another program keeps it out", plugins: ["bridge", "istio-cni"] },
      "fail",
      /our entry is not in the chain \(bridge, istio-cni\), another program keeps it out$/,
    ],
  ])("one that waits %s is said", async (_what, chain, level, what) => {
    const agent = new FakeAgent();
    unanswered(agent, "a", "Pending");
    const [node, list] = await reports(agent);
    const told = { ...node, chain: { ...(node.chain as ChainReport), ...chain } };
    expect(allOf(judgeSidecars(told, list))).toMatchObject([
      { id: "sidecars", level, what: expect.stringMatching(what) },
    ]);
  });

  test("without ambient mode ztunnel and the host's rules for probes are not missed", async () => {
    const agent = new FakeAgent();
    agent.connections.length = 0;
    agent.ambient = false;
    const facts = agent.facts();
    const state = new AgentState({
      ...facts,
      probes: { ...facts.probes, fault: "no ipset" },
    });
    const found = judgeAgent(await state.node(), state.pods());
    const of = (id: string) => found.find((each) => each.id === id);
    for (const id of ["ztunnel", "probe-rules", "probe-path"])
      expect(of(id)).toMatchObject({ level: "ok", what: expect.stringContaining("AMBIENT_ENABLED=false") });
  });
});

describe("what ambient mode left where it is off", () => {
  const rules = ["chain ISTIO_POSTRT", "ipset istio-inpod-probes-v4"];
  test.each([
    [
      { rules, captured: ["process 7 (app)"] },
      /still has chain ISTIO_POSTRT, .*captured still, process 7 \(app\)$/,
    ],
    [{ rules, captured: [], fault: "set is in use" }, /still has chain ISTIO_POSTRT, .*: set is in use$/],
    [
      { rules: [], captured: [], fault: "no proc" },
      /^cannot tell what ambient mode left on the host: no proc$/,
    ],
  ])("%j is worth a warning, in doctor and in status", async (found, what) => {
    const state = new AgentState({ ...new FakeAgent().facts(), leftovers: { found } });
    const node = await state.node();
    const [said] = judgeAgent(node, state.pods()).filter(({ id }) => id === "ambient-leftovers");
    expect(said).toMatchObject({ level: "warn", what: expect.stringMatching(what) });
    expect(renderNode(node, false)).toMatch(/^ {2}! .*ambient mode/m);
  });

  test("nothing is said of nothing", async () => {
    const state = new AgentState({ ...new FakeAgent().facts(), leftovers: { found: undefined } });
    expect(judgeAgent(await state.node(), state.pods()).map(({ id }) => id)).not.toContain(
      "ambient-leftovers",
    );
  });
});

describe("by what became of their check for rules", () => {
  const fakeClient = (pods: readonly unknown[]) => {
    const asked: unknown[] = [];
    const list = async (
      path: string,
      query: unknown,
      { convert }: { convert: (raw: unknown) => unknown },
    ) => {
      asked.push([path, query]);
      return { items: pods.map(convert), resourceVersion: "1" };
    };
    return { client: { list } as unknown as Pick<ApiClient, "list">, asked };
  };
  const check = async (pods: readonly unknown[], env: Record<string, string> = {}, nodeName = "n1") => {
    const { repair } = loadCliConfig({ NODE_NAME: nodeName, ...env });
    return allOf(await checkUnserved(fakeClient(pods).client, { nodeName, repair, timeoutMs: 1_000 }));
  };
  const ended = { exitCode: 0, reason: "Completed", finishedAt: "2026-11-29T12:00:00Z" };

  test.each<[string, readonly unknown[]]>([
    ["no pod", []],
    ["a pod whose check went well", [brokenPod("a", { state: { terminated: ended } })]],
    ["a pod of another node", [brokenPod("a", { nodeName: "n2" })]],
    ["a pod without a sidecar", [brokenPod("a", { annotations: {} })]],
    ["another container that failed", [brokenPod("a", { container: "init-db" })]],
  ])("%s is no finding", async (_what, pods) => {
    expect(await check(pods)).toEqual([]);
  });

  test("nobody asks where it is not known which node this is", async () => {
    expect(await check([brokenPod("a")], {}, "")).toEqual([]);
  });

  test("a pod that crashes for lack of rules while nobody repairs is a failure", async () => {
    expect(await check([brokenPod("a"), brokenPod("b")])).toEqual([
      {
        id: "sidecars-unserved",
        level: "fail",
        what: "2 pods are without the rules that a sidecar waits for (istio-validation ended with 126), for example shop/a, and nobody repairs them",
        fix: expect.stringContaining("REPAIR_REPAIR_PODS=true"),
      },
    ]);
  });

  test.each([
    ["REPAIR_REPAIR_PODS", "repair is on (repair)", "istio_cni_repair_pods_repaired_total"],
    ["REPAIR_DELETE_PODS", "repair is on (delete)", "istio_cni_repair_pods_repaired_total"],
    ["REPAIR_LABEL_PODS", "repair is on (label)", "labelled cni.istio.io/uninitialized alone"],
  ])("with %s it is one that is being seen to", async (setting, what, fix) => {
    expect(await check([brokenPod("a")], { [setting]: "true" })).toMatchObject([
      { level: "warn", what: expect.stringContaining(what), fix: expect.stringContaining(fix) },
    ]);
  });
});
