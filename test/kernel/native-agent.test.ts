// SPDX-License-Identifier: Apache-2.0
// The agent with NATIVE_NFTABLES=true on a node of its own, where it finds no program: what it does natively, and the way there and back.
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./native-agent.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "native-agent.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

test("asked to choose an iptables where there is none, the agent is not ready and says what does without", async () => {
  const { ready, output } = await node.call.withoutPrograms();
  for (const said of [ready, output])
    expect(said).toMatch(/Cannot use iptables variant.*NATIVE_NFTABLES=true/);
});

test("ADD captures, with istio-cni's tables and nothing of iptables, and everybody says so", async () => {
  const seen = await node.call.captured();
  expect(seen.state).toBe("enrolled");
  expect(seen.summary).toMatch(/^captured, verified at/);
  expect(seen.wanted).toContain("istio-ambient-mangle");
  expect(seen.rules).toBe(seen.wanted);
  expect(seen.iptables).toEqual(["", ""]);
  expect(seen.fingerprints).toEqual([true, true]);
  expect(seen.drift).toEqual([]);
  expect(seen.bypasses).toEqual({ found: [], complete: true });
  expect(seen.ways).toEqual([true, true]);
  expect(seen.host).toContain(`${seen.addresses.v4} comment "${seen.addresses.uid}"`);
  expect(seen.host).toContain("ip daddr @istio-inpod-probes-v4 counter");
  expect(seen.ipset).toBe("");
  expect(seen.status).toContain("native nftables");
  expect(seen.verify).toEqual([]);
});

test("a pod with a sidecar has its rules in istio-cni's tables when its ADD is answered, and damage is mended", async () => {
  const { rules, wanted, hurt, routes, iptables, wasSaid } = await node.call.sidecar();
  expect(wanted).toContain("istio-proxy-mangle");
  expect(rules).toBe(wanted);
  expect(hurt).not.toContain("istio-proxy-mangle");
  expect(routes).toHaveLength(1);
  expect(iptables).toBe("");
  expect(wasSaid).toBe(true);
});

test("labels take a running pod in and let it go", async () => {
  const { off, on, again, ways } = await node.call.labelled();
  expect(off).toBe("");
  expect(on).toContain("redirect to :15001");
  expect(ways).toEqual([true, true]);
  expect(again).toBe("");
});

test("a restart writes nothing", { timeout: 30_000 * patience() }, async () => {
  expect(await node.call.restarted()).toEqual({ pod: 0, host: 0 });
});

test("damage is named by verify, mended, and told in an Event", {
  timeout: 60_000 * patience(),
}, async () => {
  const { verify, event, whole, after } = await node.call.damaged();
  expect(verify.map((line) => line.split(":")[0]).sort()).toEqual([
    "extra-rule",
    "host-chain",
    "missing-rule",
  ]);
  expect(event).toMatch(/istio-output|istio-prerouting/);
  expect(whole).toBe(true);
  expect(after).toEqual([]);
});

test("under traffic the node goes to iptables and back: no request is lost or passes ztunnel", {
  timeout: 90_000 * patience(),
}, async () => {
  const { sent, past, failed, states, wanted, wantedSidecar, wasCarried, verify } =
    await node.call.switched();
  const [iptables, native] = states;
  expect(iptables).toMatchObject({ rules: "", host: "", isOpen: true, sidecar: "" });
  expect(iptables?.iptables).toContain("ISTIO_OUTPUT");
  expect(iptables?.hostIptables).toContain("ISTIO_POSTRT");
  expect(iptables?.ipset).toContain("istio-inpod-probes-v4");
  expect(native).toMatchObject({ rules: wanted, ipset: "", isOpen: true, sidecar: wantedSidecar });
  expect(native?.iptables).not.toContain("ISTIO");
  expect(native?.hostIptables).not.toContain("ISTIO");
  expect(native?.host).toContain("snat ip to");
  for (const each of states) expect(each.sent).toBeGreaterThan(10);
  expect(wasCarried).toBe(true);
  expect({ past, failed }).toEqual({ past: 0, failed: [] });
  expect(sent).toBeGreaterThan(50);
  expect(verify).toEqual([]);
});

test("uninstall leaves nothing, without a program", { timeout: 60_000 * patience() }, async () => {
  const seen = await node.call.uninstalled();
  expect(seen.output).not.toMatch(/left:/);
  expect(seen).toMatchObject({ code: 0, pod: "", host: "", isDirect: true });
  expect(seen.routing).not.toContain("0x111");
});
