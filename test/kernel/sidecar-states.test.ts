// SPDX-License-Identifier: Apache-2.0
// Where pods with a sidecar stand, in each word of the product: status, verify, debug, metrics, the dashboard's rules.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./sidecar-states.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "sidecar-states.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("a pod whose ADD gave it its sidecar's rules", () => {
  test("is a sidecar in status, at once", async () => {
    const { code, out } = await node.call.command("status", []);
    expect(code).toBe(0);
    expect(out).toMatch(/pods 3: 1 wanted, 1 enrolled, 1 verified, 1 sidecar$/m);
    expect(out).toMatch(/^mesh +web +no +sidecar +\d+s +- +- *$/m);
    const one = await node.call.command("status", ["mesh/web"]);
    expect(one.out).toMatch(/^mesh\/web +sidecar$/m);
    expect(one.out).toMatch(/sidecar: +mode=REDIRECT proxyUid=1337 .*includeInboundPorts=\*/);
    expect(one.out).toMatch(/IPv4: +its sidecar's rules are right$/m);
    expect(one.out).not.toMatch(/sockets|probes/);
  });

  test("is right to verify and debug, and counted as such", async () => {
    const verify = await node.call.command("verify", []);
    expect(verify.out).toBe("all is right: 3 pods looked at, 1 of the mesh, 1 with a sidecar\n");
    expect(verify.code).toBe(0);
    const debug = await node.call.command("debug", ["web", "mesh"]);
    expect(debug.out.match(/^ +ok: /gm)).toHaveLength(3);
    expect(debug.out).toMatch(/^ +-A ISTIO_OUTPUT .*--uid-owner 1337 /m);
    expect(debug.code).toBe(0);
    const { metrics } = await node.call.counts();
    expect(metrics).toContain('ambient_cni_pods{state="sidecar"} 1\n');
    expect(metrics).not.toMatch(/^ambient_cni_sidecar_repairs_total\{/m);
  });

  test("is never in ztunnel's hands, nor annotated", async () => {
    const { ztunnel, annotation } = await node.call.counts();
    expect(ztunnel).toEqual(["ambient"]);
    expect(annotation).toBeUndefined();
  });

  test("has no ambient rules on the page, though one of its chains has the name of one", async () => {
    const { rules } = await node.call.pageRules();
    expect(rules).toMatchObject({ sidecar: true, unread: null, families: [], wanted: false });
  });
});

describe("while nobody repairs it", () => {
  test("verify names each difference, and nothing else", async () => {
    const { code, report } = await node.call.hurt(["nat", "-D", "ISTIO_OUTPUT", "1"]);
    expect(report.faults.map(({ kind, pod }) => `${pod} ${kind}`)).toEqual(["mesh/web missing-rule"]);
    expect(code).toBe(1);
  });

  test("a jump that is gone is named, in status as well", async () => {
    const { code, report, status } = await node.call.hurt(["nat", "-D", "PREROUTING", "-j", "ISTIO_INBOUND"]);
    expect(report.faults.map(({ kind }) => kind)).toEqual(["missing-jump"]);
    expect(report.faults[0]?.what).toMatch(/^IPv4 nat: /);
    expect(code).toBe(1);
    expect(status).toMatch(/IPv4: +missing-jump: /);
  });

  test("a pod without any of its rules is one fault, with the remedy", async () => {
    const { code, report, debug } = await node.call.flushed();
    expect(report.faults).toEqual([
      expect.objectContaining({
        kind: "no-sidecar-rules",
        pod: "mesh/web",
        fix: expect.stringContaining("REPAIR_REPAIR_PODS=true"),
      }),
    ]);
    expect(code).toBe(1);
    expect(debug).toMatch(/WRONG: no-sidecar-rules: its sidecar waits for rules/);
  });

  test("ambient rules in its namespace are not its own", async () => {
    const { code, report } = await node.call.captured();
    expect(report.faults.map(({ kind }) => kind)).toEqual(["no-sidecar-rules", "unwanted-capture"]);
    expect(code).toBe(1);
  });
});

test("an agent that looks puts it right, which the metric and an Event say and verify finds", async () => {
  const { repairs, code, status } = await node.call.healed();
  // ISTIO_INBOUND, ISTIO_IN_REDIRECT, ISTIO_OUTPUT, ISTIO_REDIRECT
  expect(repairs["missing-chain"]).toBe(4);
  expect(code).toBe(0);
  expect(status).toMatch(/^mesh +web +no +sidecar +/m);
});

test("rules that cannot be judged are no mismatch: unverified, with exit code 4 and an Event", async () => {
  const { code, report, status, metrics } = await node.call.unreadable();
  expect(report.faults).toEqual([]);
  expect(report.unverified.map(({ kind, pod }) => `${pod} ${kind}`)).toEqual(["mesh/web unreadable-rules"]);
  expect(code).toBe(4);
  expect(status).toMatch(/^mesh +web +no +unverified +/m);
  expect(metrics).toContain('ambient_cni_pods{state="unverified"} 1\n');
});

test("a pod that its annotations keep from starting is failed, with the annotation", async () => {
  const { status, doctor } = await node.call.malformed();
  expect(status).toMatch(/^mesh +broken +no +failed .*includeInboundPorts="80;443"/m);
  expect(doctor).toMatch(/^fail +sidecars +1 pod is not redirected .*mesh\/broken.*includeInboundPorts/m);
});

test("a pod that started without rules is named with what to do; once it is repaired it is looked after", async () => {
  const { before, during, isHurt, ruleCount, verify } = await node.call.unserved();
  expect(before.status).toMatch(/^mesh +late +no +outside +/m);
  expect(before.doctor).toMatch(
    /^fail +sidecars-unserved +1 pod is without .*mesh\/late, and nobody repairs/m,
  );
  expect(during).toMatch(/^warn +sidecars-unserved .*the agent's repair is on \(repair\)$/m);
  expect(isHurt).toBe(true);
  expect(ruleCount).toBeGreaterThan(10);
  expect(verify).toEqual({
    code: 0,
    out: "all is right: 1 pods looked at, 0 of the mesh, 1 with a sidecar\n",
  });
});

test.each([
  [
    { FORCE_IPTABLES_BINARY: "legacy" },
    ["iptables-legacy", "-t", "nat", "-D", "ISTIO_OUTPUT", "1"],
    "missing-rule",
  ],
  [{ NATIVE_NFTABLES: "true" }, ["nft", "flush", "ruleset"], "no-sidecar-rules"],
] as const)("its rules are looked at where the agent keeps them with %j", async (env, hurts, kind) => {
  expect(await node.call.inVariant(env, hurts)).toEqual({ right: [], hurt: [kind], code: 1 });
});
