// SPDX-License-Identifier: Apache-2.0
// A real agent's answers: as the schema says, and true of the kernel.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { NodeReport } from "../../src/status/node-state-report.ts";
import type { PodDetailReport, PodListReport } from "../../src/status/state-report.ts";
import { NodeModule } from "../support/node/node-module.ts";
import { validate } from "./json-schema.ts";
import { parsePrometheusText } from "./prometheus-text.ts";

type Inside = typeof import("./real-agent.inside.ts");
let node: NodeModule<Inside>;
const schema = JSON.parse(readFileSync(new URL("../../docs/state-api.schema.json", import.meta.url), "utf8"));

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "real-agent.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

async function ask<T>(path: string, name: string): Promise<T> {
  const { status, json } = await node.call.answer(path);
  expect(status).toBe(200);
  expect(validate(schema, name, json)).toEqual([]);
  return json as T;
}

const pod = () => ask<PodDetailReport>("/api/v1/pods/mesh/web", "PodDetail");

describe("a captured pod", () => {
  test("is right in every part, as the kernel and ztunnel say", async () => {
    const report = await pod();
    expect(report).toMatchObject({
      ns: "mesh",
      name: "web",
      state: "enrolled",
      annotation: "enabled",
      lastError: null,
      desired: { wanted: true, selector: { index: 1 } },
      observed: {
        source: "kernel",
        unread: null,
        ztunnel: { inRoster: true, acknowledged: true },
        probes: { member: true },
      },
    });
    expect(report.observed?.families.map(({ family }) => family)).toEqual([4, 6]);
    for (const family of report.observed?.families ?? []) {
      expect(family).toMatchObject({ drift: [], ipRule: true, route: true });
      expect(family.fingerprint).toBe(family.wantedFingerprint);
    }
    expect(report.observed?.sockets?.map(({ listening }) => listening)).toEqual(Array(5).fill(true));
    expect(report.transitions.at(-1)).toMatchObject({ to: "enrolled" });
    expect(report.transitions.at(-1)?.steps.map(({ step }) => step)).toEqual(["sandbox", "rules", "ztunnel"]);
    expect(report.log.map(({ message }) => message)).toContain("pod enrolled");
  });

  test.each([
    {
      what: "a rule is gone",
      hurt: [
        "iptables",
        "-t",
        "nat",
        "-D",
        "ISTIO_OUTPUT",
        "-o",
        "lo",
        "!",
        "-d",
        "127.0.0.1/32",
        "-j",
        "ACCEPT",
      ],
      heal: [
        "iptables",
        "-t",
        "nat",
        "-I",
        "ISTIO_OUTPUT",
        "5",
        "-o",
        "lo",
        "!",
        "-d",
        "127.0.0.1/32",
        "-j",
        "ACCEPT",
      ],
      family: 0,
      kinds: ["missing-rule"],
    },
    {
      what: "nothing enters a chain",
      hurt: ["ip6tables", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"],
      heal: ["ip6tables", "-t", "nat", "-A", "OUTPUT", "-j", "ISTIO_OUTPUT"],
      family: 1,
      kinds: ["missing-jump"],
    },
    {
      what: "the route is gone",
      hurt: ["ip", "-4", "route", "del", "local", "default", "dev", "lo", "table", "100"],
      heal: ["ip", "-4", "route", "add", "local", "default", "dev", "lo", "table", "100"],
      family: 0,
      kinds: ["missing-route"],
    },
  ])("is told of when $what", async ({ hurt, heal, family, kinds }) => {
    const hurtReport = (await node.call.hurt({ hurt, heal })) as unknown as PodDetailReport;
    expect(validate(schema, "PodDetail", hurtReport)).toEqual([]);
    const seen = hurtReport.observed?.families[family];
    expect(seen?.drift.map(({ kind }) => kind)).toEqual(kinds);
    const isRouting = kinds.includes("missing-route");
    expect(seen?.route).toBe(!isRouting);
    expect(seen?.fingerprint === seen?.wantedFingerprint).toBe(isRouting);
  });

  test("without ztunnel has no ack and no sockets, and node and metrics say so", async () => {
    const seen = await node.call.withoutZtunnel();
    const report = seen.pod as unknown as PodDetailReport;
    expect(report.observed?.ztunnel).toEqual({
      inRoster: true,
      acknowledged: false,
      netns: null,
      connection: null,
    });
    expect(report.observed?.sockets?.some(({ listening }) => listening)).toBe(false);
    expect((seen.node as unknown as NodeReport).ztunnel).toMatchObject({ connections: [], ready: false });
    const connected = parsePrometheusText(seen.metrics).get("ztunnel_connected")?.samples[0]?.value;
    expect(connected).toBe(0);
  });
});

describe("the node", () => {
  test("lists its pods with reasons", async () => {
    const { pods } = await ask<PodListReport>("/api/v1/pods", "PodList");
    expect(pods.map(({ ns, name, state }) => `${ns}/${name} ${state}`)).toEqual([
      "mesh/web enrolled",
      "plain/outsider outside",
    ]);
    expect(pods[0]?.observed).toMatchObject({ source: "last-run", unread: null });
    expect(pods[1]?.desired.exclusion).toBe("not-selected");
  });

  test("is ready, fresh, and connected to one ztunnel", async () => {
    const report = await ask<NodeReport>("/api/v1/node", "Node");
    expect(report).toMatchObject({
      ready: true,
      ztunnel: { ready: true, connections: [{ phase: "live", refused: 0 }] },
      pods: { known: 2, wanted: 1, enrolled: 1, verified: 1, failing: [] },
    });
    expect(report.watches.every(({ fresh, synced }) => fresh && synced)).toBe(true);
    expect(report.ztunnel.connections[0]?.pid).toBeGreaterThan(0);
  });

  test("counts what happened in its metrics", async () => {
    const families = parsePrometheusText(await node.call.metrics());
    const value = (name: string, labels: Readonly<Record<string, string>>): number | undefined =>
      families
        .get(name.replace(/_(count|bucket|sum)$/, ""))
        ?.samples.find(
          (sample) =>
            sample.name === name &&
            Object.entries(labels).every(([label, wanted]) => sample.labels[label] === wanted),
        )?.value;
    expect(value("ambient_cni_calls_total", { verb: "ADD", outcome: "captured" })).toBe(1);
    expect(value("ambient_cni_calls_total", { verb: "ADD", outcome: "passed" })).toBe(1);
    expect(value("istio_cni_plugin_requests_total", { response_code: "200" })).toBe(1);
    expect(value("ambient_cni_capture_duration_seconds_count", {})).toBeGreaterThanOrEqual(1);
    expect(value("ambient_cni_ztunnel_answer_duration_seconds_count", { result: "ack" })).toBeGreaterThan(1);
    expect(value("nodeagent_reconcile_events_total", { type: "add" })).toBeGreaterThan(3);
  });

  test("changes levels, from the next line on", async () => {
    expect(await node.call.changeLevels()).toEqual({ status: 200, debugLines: expect.any(Number) });
  });

  test("is asked cheaply with many pods", async () => {
    const costs = await node.call.costs(Number(process.env.OBSERVE_PODS ?? 40));
    if (process.env.OBSERVE_PODS !== undefined) console.log(costs);
    expect(costs.scrapeCpuMs).toBeLessThan(5);
    expect(costs.listMs).toBeLessThan(1000);
    expect(costs.nodeMs).toBeLessThan(1000);
    expect(costs.podMs).toBeLessThan(1000);
  });
});
