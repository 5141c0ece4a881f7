// SPDX-License-Identifier: Apache-2.0
// The bundle is what users get: its dashboard has its page and live stream in it, and each command works without the sources.

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { PodRulesReport } from "../../src/dashboard/rules-report.ts";
import type { Finding } from "../../src/diagnose/finding.ts";
import { normaliseRule } from "../../src/netfilter/rule-tokens.ts";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./bundle.inside.ts");
let node: NodeModule<Inside>;

describe.skipIf(process.getuid?.() !== 0)("the bundle on a node (needs root)", () => {
  beforeAll(async () => {
    node = await NodeModule.start<Inside>(join(import.meta.dirname, "bundle.inside.ts"));
  });
  afterAll(async () => {
    await node?.stop();
  });

  test("serves the page with its style and its program", async () => {
    const page = await node.call.file("/");
    expect(page).toMatchObject({ status: 200, type: "text/html; charset=utf-8" });
    const wanted = [...page.text.matchAll(/(?:href|src)="(dashboard\.\w+)"/g)].map(([, name]) => `/${name}`);
    expect(wanted.sort()).toEqual(["/dashboard.css", "/dashboard.js"]);
    const [css, js] = await Promise.all(wanted.map((path) => node.call.file(path)));
    expect(css).toMatchObject({ status: 200, type: "text/css; charset=utf-8" });
    expect(js).toMatchObject({ status: 200, type: "text/javascript; charset=utf-8" });
    expect(css?.text).toContain("pod-table");
    expect(js?.text).toContain("EventSource");
  });

  test("feeds the page with the pods", async () => {
    expect(await node.call.live()).toEqual({
      node: "node-1",
      states: { "shop/web-0": "enrolled", "plain/outsider": "outside" },
    });
  });

  test("tells the page the rules of a pod as the kernel has them", async () => {
    const rulesOf = async (pod: string): Promise<PodRulesReport> => {
      const { status, text } = await node.call.file(`/api/v1/pods/${pod}/rules`);
      expect(status).toBe(200);
      return JSON.parse(text) as PodRulesReport;
    };
    const captured = await rulesOf("shop/web-0");
    expect(captured).toMatchObject({ wanted: true, unread: null, netns: expect.stringMatching(/^\d+:\d+$/) });
    expect(captured.families.map(({ family }) => family)).toEqual([4, 6]);
    const rules = captured.families.flatMap((family) => family.rules);
    expect(rules.every(({ state }) => state === "present")).toBe(true);
    const inKernel = (await node.call.kernelRules()).filter((rule) => /^\w+ ISTIO_/.test(rule));
    expect(captured.families[0]?.rules).toHaveLength(inKernel.length);
    expect(await rulesOf("plain/outsider")).toMatchObject({
      wanted: false,
      unread: null,
      families: [
        { family: 4, rules: [], hooks: [] },
        { family: 6, rules: [], hooks: [] },
      ],
    });
    expect((await node.call.file("/api/v1/pods/shop/nobody/rules")).status).toBe(404);
  });

  test("the page goes before the agent when memory runs out", async () => {
    const { dashboard, agent } = await node.call.oomScores();
    expect(dashboard).toBe(1000);
    expect(agent).toBeLessThan(1000);
  });

  test("a dashboard whose port is taken says so", async () => {
    expect(await node.call.command(["dashboard"])).toMatchObject({
      code: 1,
      stdout: "",
      stderr: expect.stringMatching(
        /^ambient-cni: Cannot serve the dashboard on 127.0.0.1:15015: .*EADDRINUSE.*choose another --port\n$/,
      ),
    });
  });

  test("status lists the pods", async () => {
    const { code, stdout, stderr } = await node.call.command(["status"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^node node-1: ready .* ztunnel connected, 1 acknowledged/);
    expect(stdout).toMatch(/^shop +web-0 +yes +enrolled /m);
    expect(stdout).toMatch(/^plain +outsider +no +outside /m);
  });

  test("status of one pod, as JSON", async () => {
    const { code, stdout } = await node.call.command(["status", "shop/web-0", "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ ns: "shop", name: "web-0", state: "enrolled" });
  });

  test("verify finds nothing, and then what is wrong", async () => {
    expect(await node.call.command(["verify"])).toMatchObject({
      code: 0,
      stdout: "all is right: 2 pods looked at, 1 of the mesh\n",
    });
    const { code, stdout } = await node.call.verifyHurt();
    expect(code).toBe(1);
    expect(stdout).toContain("missing-jump");
  });

  test("debug shows the rules that the kernel has", async () => {
    const { code, stdout } = await node.call.command(["debug", "web", "shop"]);
    expect(code).toBe(0);
    expect(stdout.match(/^ {5}ok: /gm)).toHaveLength(3);
    const rules = (await node.call.kernelRules()).filter((rule) => /^(mangle|nat) /.test(rule));
    expect(rules.length).toBeGreaterThan(8);
    for (const rule of rules) {
      const [, chain = "", ...words] = rule.split(" ");
      // a jump is told by where it leads
      if (!chain.startsWith("ISTIO_")) continue;
      expect(stdout).toContain(`-A ${chain} ${normaliseRule(words).join(" ")}`);
    }
  });

  test("doctor as JSON has a finding for each part, and none to mend", async () => {
    const { stdout, code } = await node.call.command(["doctor", "--json"]);
    const { findings } = JSON.parse(stdout) as { findings: Finding[] };
    const levels = Object.fromEntries(findings.map(({ id, level }) => [id, level]));
    expect(levels).toMatchObject({ agent: "ok", ztunnel: "ok", kernel: "ok", "cni-folders": "ok" });
    expect(findings.filter(({ level }) => level === "fail")).toEqual([]);
    expect(code).toBe(0);
  });

  test.each(["bash", "zsh", "fish"])("completion for %s names the commands", async (shell) => {
    const { code, stdout } = await node.call.command(["completion", shell]);
    expect(code).toBe(0);
    for (const name of ["status", "verify", "doctor", "debug", "dashboard", "uninstall"])
      expect(stdout).toContain(name);
    if (shell === "bash") execFileSync("bash", ["-n"], { input: stdout });
  });

  test("a command without an agent says so and what to do", async () => {
    const { code, stderr } = await node.call.command(["status"], { CNI_AGENT_RUN_DIR: "/run/node/empty" });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^ambient-cni: .*no agent runs with this run dir/);
  });

  test("a command that is none is wrong usage", async () => {
    const { code, stderr } = await node.call.command(["frob"]);
    expect(code).toBe(2);
    expect(stderr).toContain('unknown command "frob"');
  });
});
