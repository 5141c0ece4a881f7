// SPDX-License-Identifier: Apache-2.0
// Pods with a sidecar through the plugin: they have their rules when their ADD is answered, or do not start.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { defaultSidecarOptions } from "../../src/redirection/sidecar-options.ts";
import { renderSidecarText } from "../../src/redirection/told-sidecar.ts";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./sidecar-pods.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "sidecar-pods.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

/** Every rule of a golden text, of the families that are asked for. */
function expectRules(saved: string, options = defaultSidecarOptions(), families: readonly (4 | 6)[] = [4]) {
  const rules = families.flatMap((family) => renderSidecarText(options, family).match(/^-A .*$/gm) ?? []);
  expect(rules.length).toBeGreaterThan(15);
  for (const rule of rules) expect(saved.replaceAll(" --on-ip 0.0.0.0", "")).toContain(rule);
  expect(saved.match(/^-A .*ISTIO_.*$/gm)).toHaveLength(rules.length);
}

test("a pod as the injector leaves it has its rules when its ADD is answered, no ztunnel and no annotation needed", async () => {
  const { rules, native, announced } = await node.call.injected();
  for (const each of [rules, native]) expectRules(each, defaultSidecarOptions(), [4, 6]);
  expect(announced).toBeUndefined();
});

test("annotations and the proxy's container say which rules", async () => {
  const { rules, rule } = await node.call.options();
  expectRules(
    rules,
    defaultSidecarOptions({
      mode: "TPROXY",
      excludeOutboundCidrs: ["192.0.2.0/24"],
      dnsCapture: true,
      proxyUid: 4242,
      proxyGid: 4243,
    }),
  );
  expect(rule).toBe(true);
});

test("pods with istio-init, of excluded namespaces or without injection are not touched", async () => {
  for (const rules of Object.values(await node.call.others())) expect(rules).not.toContain("ISTIO");
});

test("an annotation that cannot be followed fails the ADD with its value and the remedy", async () => {
  expect(await node.call.malformed()).toMatch(
    /Cannot redirect pod "mesh\/pod-\d+" to its sidecar: Cannot use annotation traffic\.sidecar\.istio\.io\/includeInboundPorts="80;443": "80;443" is no port; use numbers/,
  );
});

test("while the API server or the agent is away it is held, with the reason", async () => {
  const { api, agent } = await node.call.withoutAnswers();
  expect(api).toMatch(/is held until the API server answers/);
  expect(agent).toMatch(/agent/);
  expect(agent).not.toBe("no error");
});

test("ztunnel is never told of it, and looks of the agent leave its rules alone", async () => {
  const { held, before, after } = await node.call.besideAmbient();
  expect(held).toEqual(["ambient"]);
  expectRules(before);
  expect(after).toBe(before);
});

test("rules that somebody takes away are put right by the next look, also after a restart of the agent", async () => {
  const { before, hurt, after, said } = await node.call.hurt();
  expect(hurt).not.toBe(before);
  expect(after).toBe(before);
  expect(said).toBe(true);
});

test("with AMBIENT_ENABLED=false sidecars are served without ztunnel, and nothing else is captured", async () => {
  const { rules, ambient } = await node.call.sidecarsOnly();
  expectRules(rules);
  expect(ambient).not.toContain("ISTIO");
});
