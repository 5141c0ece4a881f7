// SPDX-License-Identifier: Apache-2.0
// What is said of the runtime's own word (NRI), in doctor, status and metrics, and of who told of the sandboxes.
import { describe, expect, test } from "vitest";
import { renderNode } from "../../src/cli/status-command.ts";
import { judgeAgent } from "../../src/diagnose/agent-check.ts";
import type { SandboxSource } from "../../src/enrolment/sandbox-finder.ts";
import type { AgentFacts, RuntimeFacts } from "../../src/status/agent-facts.ts";
import { AgentState } from "../../src/status/agent-state.ts";
import { FakeAgent, metricsOf } from "../status/fake-agent.ts";

const connected = new FakeAgent().facts().runtime as RuntimeFacts;

/** Everything that is said of it. */
async function said(
  runtime: RuntimeFacts | undefined,
  options: { readonly enabled?: "auto" | "true"; readonly sources?: readonly SandboxSource[] } = {},
) {
  const { enabled = "auto", sources = [] } = options;
  const agent = new FakeAgent();
  for (const [index, source] of sources.entries()) {
    const name = `web-${index}`;
    agent.add(name);
    const record = agent.records.get(`uid-${name}`) as { sandbox: object };
    record.sandbox = { ...record.sandbox, source };
  }
  const facts: AgentFacts = { ...agent.facts(), runtime };
  const config = { ...facts.config, nri: { ...facts.config.nri, enabled } };
  const state = new AgentState({ ...facts, config });
  const node = await state.node();
  const metrics = (await metricsOf(state).render()).split("\n");
  return {
    finding: judgeAgent(node, state.pods()).find(({ id }) => id === "nri"),
    status: renderNode(node, false).split("\n")[0] ?? "",
    connected: metrics.find((line) => line.startsWith("ambient_cni_nri_connected ")),
    sandboxes: metrics.filter((line) => line.startsWith("ambient_cni_sandboxes{")),
    pods: state.pods().pods.map(({ observed }) => observed?.sandboxSource),
  };
}

describe("a runtime that tells", () => {
  test("is named, with how many sandboxes each source told of", async () => {
    const found = await said(connected, { sources: ["add", "add", "nri", "pinned"] });
    expect(found.finding).toEqual({
      ...{ id: "nri", level: "ok", fix: null },
      what: "containerd 2.1.9 tells of its sandboxes; known: 2 by ADD, 1 by NRI alone, 1 by an address, 0 by a process",
    });
    expect(found.status).toContain(" · NRI containerd 2.1.9, 1 sandboxes by it alone · ");
    expect(found.connected).toBe("ambient_cni_nri_connected 1");
    expect(found.sandboxes.toSorted()).toEqual([
      'ambient_cni_sandboxes{source="add"} 2',
      'ambient_cni_sandboxes{source="nri"} 1',
      'ambient_cni_sandboxes{source="pinned"} 1',
      'ambient_cni_sandboxes{source="proc"} 0',
    ]);
    expect(found.pods).toEqual(["add", "add", "nri", "pinned"]);
  });

  test("and does so no more is worth a warning", async () => {
    const found = await said({ ...connected, state: "away", fault: "the runtime closed the connection" });
    expect(found.finding).toMatchObject({
      level: "warn",
      what: "the runtime does not tell of its sandboxes: the runtime closed the connection",
    });
    expect(found.status).toContain(" · NRI away · ");
    expect(found.connected).toBe("ambient_cni_nri_connected 0");
  });
});

describe("a runtime without a socket", () => {
  const absent = { ...connected, state: "absent", runtime: undefined } as const;
  test("is no fault, and no alert comes of it", async () => {
    const found = await said(absent);
    expect(found.finding).toMatchObject({
      level: "ok",
      what: expect.stringMatching(/^there is no socket "\/var/),
    });
    expect(found.status).not.toContain("NRI");
    expect(found.connected).toBeUndefined();
  });

  test("is one where it was asked for", async () => {
    expect((await said(absent, { enabled: "true" })).finding).toMatchObject({ level: "warn" });
  });

  test("is not looked for where it is not to be heard", async () => {
    const found = await said(undefined);
    expect([found.finding, found.connected]).toEqual([undefined, undefined]);
  });
});
