// SPDX-License-Identifier: Apache-2.0
// `ambient-cni verify` names each fault that is planted in the kernel, and nothing else; the other commands beside it.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./verify.inside.ts");
let node: NodeModule<Inside>;
const fleetSize = Number(process.env.VERIFY_PODS ?? 30);

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "verify.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});

describe("a healthy node, its agent at work", () => {
  test("has nothing wrong", async () => {
    const { code, out } = await node.call.command("verify", []);
    expect(out).toBe("all is right: 3 pods looked at, 2 of the mesh\n");
    expect(code).toBe(0);
  });

  test("one pod is verified alone, and one that is not there is said", async () => {
    expect((await node.call.command("verify", ["mesh/quiet"])).out).toBe(
      "all is right: 1 pods looked at, 1 of the mesh\n",
    );
    const absent = await node.call.command("verify", ["mesh/absent"]);
    expect(absent.code).toBe(3);
    expect(absent.err).toContain('"mesh/absent": the agent of this node has no such pod');
  });

  test("is shown by status: a line for the node and one for each pod", async () => {
    const { code, out } = await node.call.command("status", []);
    expect(code).toBe(0);
    expect(out).toMatch(/^node node-1: ready · agent .* · ztunnel connected, 2 acknowledged/);
    expect(out).toMatch(/^mesh +web +yes +enrolled +\d+s +ack +yes$/m);
    expect(out).toMatch(/^plain +outsider +no +outside +- +- +-$/m);
  });

  test("status of one pod has its namespace, families and transitions", async () => {
    const { out } = await node.call.command("status", ["mesh/web"]);
    expect(out).toMatch(/IPv4: +rules right, ip rule there, route there/);
    expect(out).toMatch(/sockets: +all open/);
    expect(out).toMatch(/transition: .* -> enrolled/);
  });

  test("debug passes its three checks for a captured pod", async () => {
    const { code, out } = await node.call.command("debug", ["shop", "mesh"]);
    expect(out).toContain("mesh/web");
    expect(out.match(/^ +ok: /gm)).toHaveLength(3);
    expect(out).toContain("-A ISTIO_OUTPUT");
    expect(out).toContain("pod enrolled");
    expect(code).toBe(0);
  });

  test("doctor finds agent, kernel, ztunnel and backend right", async () => {
    const { out } = await node.call.command("doctor", ["--json"]);
    const { findings } = JSON.parse(out) as { findings: { id: string; level: string; what: string }[] };
    const levelOf = (id: string) => findings.find((each) => each.id === id)?.level;
    for (const id of [
      "agent",
      "watches",
      "ztunnel",
      "probe-rules",
      "pods",
      "kernel",
      "capabilities",
      "run-dir",
    ]) {
      expect([id, levelOf(id), findings.find((each) => each.id === id)?.what]).toEqual([
        id,
        "ok",
        expect.any(String),
      ]);
    }
  });

  test("many pods are answered for in under a second", async () => {
    await node.call.fleet(fleetSize);
    const netns = await node.call.ownNetns();
    const status = await node.call.command("status", []);
    // the test's process loads sources; the second call is what the bundle's first is
    await node.call.command("doctor", []);
    const doctor = await node.call.command("doctor", []);
    const verify = await node.call.command("verify", []);
    const whole = await node.call.commandProcess(["status"]);
    if (process.env.VERIFY_PODS !== undefined) {
      console.log({ status: status.ms, doctor: doctor.ms, verify: verify.ms, statusFromSources: whole.ms });
    }
    expect(verify.out).toBe(`all is right: ${fleetSize + 3} pods looked at, ${fleetSize + 2} of the mesh\n`);
    expect(status.out.split("\n").length).toBeGreaterThan(fleetSize);
    expect(status.ms).toBeLessThan(1000);
    expect(doctor.ms).toBeLessThan(1000);
    expect(await node.call.ownNetns()).toBe(netns);
  }, 120_000);
});

describe("a planted fault is named", () => {
  beforeAll(() => node.call.freeze());

  test("the frozen node is right", async () => {
    expect((await node.call.command("verify", [])).code).toBe(0);
  });

  test.each([
    ["missing jump", ["missing-jump mesh/web"]],
    ["reordered rules", ["reordered mesh/web"]],
    ["deleted ip rule", ["missing-ip-rule mesh/web"]],
    ["missing route", ["missing-route mesh/web"]],
    ["wrong table backend", ["wrong-backend mesh/web"]],
    ["rules in both backends", ["wrong-backend mesh/web"]],
    ["foreign chain with our name", ["foreign-chain mesh/web"]],
    ["foreign chain in another table", ["foreign-chain mesh/web"]],
    ["table of an istio-cni with NATIVE_NFTABLES", ["foreign-chain mesh/web"]],
    ["a rule that only nft can read", ["extra-rule mesh/web"]],
    ["a table that was put to sleep", ["dormant-table mesh/web"]],
    ["missing set entry", ["missing-set-entry mesh/web"]],
    ["stale set entry", ["stale-set-entry null"]],
    ["set entry of another pod", ["wrong-set-entry mesh/web"]],
    ["host chain flushed", ["host-chain null"]],
    [
      "annotation without capture",
      ["annotation-without-capture mesh/web", "ztunnel-sockets mesh/web"].slice(0, 1),
    ],
    ["annotation on an outsider", ["annotation-without-capture plain/outsider"]],
    ["nothing captured", ["not-captured mesh/web"]],
    ["capture without annotation", ["capture-without-annotation mesh/web"]],
    ["captured outsider", ["unwanted-capture plain/outsider"]],
  ])("%s", async (name, faults) => {
    expect(await node.call.plant(name)).toEqual({ code: 1, faults, healed: [] });
  });

  test("what nobody can judge is no mismatch, and has an exit code of its own", async () => {
    expect(await node.call.plant("a base chain that hangs elsewhere")).toEqual({
      code: 4,
      faults: ["unreadable-rules mesh/web"],
      healed: [],
    });
  });

  test("namespace swapped", async () => {
    expect(await node.call.plantSwap()).toEqual({ code: 1, faults: ["netns-swapped mesh/web"], healed: [] });
  });

  test("ztunnel sockets gone", async () => {
    const { code, faults } = await node.call.plantNoSockets();
    expect(code).toBe(1);
    expect(faults).toContain("ztunnel-sockets mesh/web");
    expect(faults.every((each) => each.startsWith("ztunnel-sockets "))).toBe(true);
  });

  test("debug says which check is wrong", async () => {
    const { code, out } = await node.call.command("debug", ["shop", "mesh"]);
    expect(code).toBe(1);
    expect(out).toMatch(/WRONG: ztunnel does not listen on tcp\/15001/);
  });
});

describe("without an agent", () => {
  beforeAll(() => node.call.silence());

  test("status says so with the remedy and ends with 1", async () => {
    const { code, out, err } = await node.call.command("status", []);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toMatch(/Cannot ask the agent at ".*state.sock": .*DaemonSet/);
  });

  test("verify looks at what there is, and does not call it right", async () => {
    const { code, out } = await node.call.command("verify", []);
    expect(out).toContain("what should be is not known");
    expect(out).toContain("ztunnel-sockets");
    expect(code).toBe(1);
  });

  test("doctor says so, and goes on", async () => {
    const { code, out } = await node.call.command("doctor", []);
    expect(code).toBe(1);
    expect(out).toMatch(/^fail {2}agent +Cannot ask the agent/m);
    expect(out).toMatch(/^ok {4}kernel/m);
  });
});
