// SPDX-License-Identifier: Apache-2.0
// The dashboard of a real agent in a real browser: what it shows is what the kernel has.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { noBrowser } from "./visitor.ts";

type Inside = typeof import("./real-agent.inside.ts");
let node: NodeModule<Inside>;

if (noBrowser !== undefined) console.warn(noBrowser);

describe.skipIf(noBrowser !== undefined)("the dashboard of a real agent", () => {
  beforeAll(async () => {
    node = await NodeModule.start<Inside>(join(import.meta.dirname, "real-agent.inside.ts"));
  });
  afterAll(async () => {
    await node?.stop();
  });

  test("shows each pod in its state", async () => {
    await node.call.untilStates({
      "mesh/web": "enrolled",
      "plain/broken": "unverified",
      "plain/peer": "outside",
      "plain/refused": "failed",
    });
    await node.call.picture("real-pods");
    expect(await node.call.text("#verdict")).toBe("Ready");
    expect(await node.call.text("#ztunnel")).toContain("live");
    expect(await node.call.text("#watches")).toContain("pods: 4 known");
  });

  test("says of a pod that failed what is wrong and what to do", async () => {
    expect(await node.call.open("plain/broken")).toMatch(
      /does not hang where iptables hangs it.*What to do/s,
    );
  });

  test("says of a pod that ztunnel refused what ztunnel said", async () => {
    expect(await node.call.open("plain/refused")).toContain("not today");
  });

  test("shows of a pod outside that nothing of ours is in it", async () => {
    expect(await node.call.open("plain/peer")).toMatch(/outside:|not in the mesh/);
  });

  test("draws the rules of a captured pod as the ways of its packets", async () => {
    await node.call.open("mesh/web");
    const lanes = await node.call.lanes();
    expect(Object.keys(lanes).map((title) => title.split(":")[0])).toEqual(["In", "Out", "DNS", "Probe"]);
    const inbound = lanes["In: a peer connects to the app"]?.join("\n") ?? "";
    expect(inbound).toMatch(
      /REDIRECT 15006.*listening.*CONNMARK 0x111.*MARK restored.*ip rule and route in place/s,
    );
    for (const stops of Object.values(lanes)) {
      for (const stop of stops.filter((each) => each.includes("→")))
        expect(stop).toMatch(/IPv4 [\d,]+ packet.*IPv6/s);
    }
    expect(lanes["Probe: the kubelet checks the app"]?.join("\n")).toContain("169.254.7.127");
  });

  test("lets the kernel's counters grow with real traffic", async () => {
    const { before, after, ms } = await node.call.sendTraffic(7);
    expect(before.page).toBe(before.kernel);
    expect(after.page).toBe(after.kernel);
    expect(after.page).toBeGreaterThanOrEqual(before.page + 7);
    expect(ms).toBeLessThan(3500);
    await node.call.picture("real-pod");
  });

  test("shows a change within a second", async () => {
    const { total, afterAgent } = await node.call.captureLive();
    console.log(`label to page ${total} ms, agent to page ${afterAgent} ms`);
    expect(afterAgent).toBeLessThan(1000);
    const goneMs = await node.call.deleteLive();
    expect(goneMs).toBeLessThan(1000);
  });

  test("costs little while a page is open on a pod", async () => {
    const { agent, dashboard } = await node.call.costs(3000);
    console.log(`in 3 s agent ${JSON.stringify(agent)}, dashboard ${JSON.stringify(dashboard)}`);
    expect(agent.cpuMs + dashboard.cpuMs).toBeLessThan(900);
  });

  test("shows what somebody did to the rules behind the agent's back", async () => {
    const seen = await node.call.hurt();
    expect(seen.lane.join("\n")).toMatch(/Missing: Answers to kubelet probes/);
    expect(seen.lane.join("\n")).toMatch(/does not know.*\(a rule of \d+ bytes that is not ours\)/s);
    expect(seen.checks.join("\n")).toContain("IPv4 nat");
  });

  test("is not there for others than the node itself", async () => {
    expect(await node.call.fromOutside()).toMatch(/ECONNREFUSED/);
  });

  test("outlives an agent, and says so meanwhile", async () => {
    expect(await node.call.restartAgent()).toEqual([
      "lost the agent, trying again",
      "live",
      expect.stringMatching(/^ambient-cni: Cannot ask the agent at .*; trying again$/),
      "ambient-cni: the agent answers again",
    ]);
  });

  test("complained of nothing and asked nobody else", async () => {
    expect(await node.call.complaints()).toEqual([]);
  });
});
