// SPDX-License-Identifier: Apache-2.0
// What the matrix of runtimes plans, reads and writes; the runs themselves are `npm run test:runtimes`.
import { describe, expect, test } from "vitest";
import { withPart } from "../support/result-tables.ts";
import { leftOut, planSteps, ruleFiles } from "./plan.ts";
import { markdownOf, type Report, textOf } from "./report.ts";
import { readSuiteReport } from "./suite-results.ts";

const files = ["agent-away", "boot", "nri", "runtime"];

describe("the plan", () => {
  test("has demo, rules and podman once and each file of the suite with each chain", () => {
    expect(
      planSteps({ chains: ["1.1.0", "1.0.0"], files, short: false, hasPodman: true, hasNri: true }),
    ).toEqual([
      { chain: "1.0.0", kind: "demo", files: [] },
      { chain: "1.0.0", kind: "rules", files: ruleFiles },
      { chain: "1.0.0", kind: "podman", files: ["podman"] },
      { chain: "1.1.0", kind: "containerd", files },
      { chain: "1.0.0", kind: "containerd", files },
    ]);
  });

  test("leaves out many pods and the rules in the short form, and with an older chain all but what its version can change", () => {
    expect(
      planSteps({ chains: ["1.1.0", "1.0.0"], files, short: true, hasPodman: false, hasNri: true }),
    ).toEqual([
      { chain: "1.0.0", kind: "demo", files: [] },
      { chain: "1.1.0", kind: "containerd", files: ["agent-away", "nri", "runtime"] },
      { chain: "1.0.0", kind: "containerd", files: ["runtime"] },
    ]);
  });

  test("says all that it leaves out", () => {
    const rest = { files, versions: ["1.1.0", "1.0.0"], pluginVersion: "1.1.1" };
    expect(
      leftOut("sid", { ...rest, chains: ["1.1.0", "1.0.0"], short: false, hasPodman: true, hasNri: true }),
    ).toEqual([]);
    expect(
      leftOut("trixie", { ...rest, chains: ["1.0.0"], short: true, hasPodman: false, hasNri: false }),
    ).toEqual([
      "trixie, a chain of CNI 1.1.0: its plugins (1.1.1) speak 1.0.0 at most",
      "trixie, a chain of CNI 1.0.0: boot (left out in the short form)",
      `trixie, test/kernel: ${ruleFiles.join(", ")} (left out in the short form)`,
      "trixie, podman: its podman, if any, runs no chains of CNI",
      "trixie, nri: its containerd has no NRI by default",
    ]);
  });

  test("has no files that take NRI where the runtime has none", () => {
    const chains = ["1.0.0"];
    const steps = planSteps({ chains, files, short: false, hasPodman: false, hasNri: false });
    expect(steps.at(-1)).toEqual({
      chain: "1.0.0",
      kind: "containerd",
      files: ["agent-away", "boot", "runtime"],
    });
  });
});

describe("the suite's report", () => {
  const file = (name: string, status: string, tests: Record<string, string>, message = "") => ({
    name: `/checkout/test/cri/${name}.test.ts`,
    status,
    message,
    assertionResults: Object.entries(tests).map(([title, each]) => ({ title, status: each })),
  });
  const read = (asked: readonly string[], ...testResults: readonly object[]) =>
    readSuiteReport(JSON.stringify({ testResults }), asked);

  test("counts what passed", () => {
    const found = read(["chain"], file("chain", "passed", { "comes back": "passed", stays: "passed" }));
    expect(found).toEqual({ passed: 2, failures: [] });
  });

  test.each([
    ["a test that failed", file("chain", "failed", { stays: "failed" }), ["chain: failed: stays"]],
    ["a test that was skipped", file("chain", "passed", { stays: "skipped" }), ["chain: skipped: stays"]],
    [
      "a file whose hook failed",
      file("chain", "failed", { stays: "skipped" }, "\nError: no node\n  at x"),
      ["chain: Error: no node", "chain: skipped: stays"],
    ],
    ["a file that is not in it", file("end", "passed", {}), ["chain: did not run"]],
  ])("does not take for passed %s", (_, found, failures) => {
    expect(read(["chain"], found)).toEqual({ passed: 0, failures });
  });
});

describe("the table", () => {
  const report: Report = {
    date: "2026-11-29",
    machine: "linux 6.18, x64, cgroup v1",
    roots: [
      {
        ...{ suite: "sid", containerd: "2.1.9", runc: "1.3.6", iptables: "1.8.13", nftables: "1.1.7" },
        ...{ plugins: "1.9.1", podman: "", fetched: "2026-11-28" },
      },
    ],
    runs: [
      { suite: "sid", chain: "1.0.0", what: "demo", passed: 13, failures: [], seconds: 12 },
      {
        ...{ suite: "sid", chain: "1.1.0", what: "test/cri: end", passed: 0, seconds: 6 },
        failures: ["end: failed: leaves nothing"],
      },
    ],
    gaps: ["trixie: not asked for"],
  };

  test("says versions, results, failures and gaps on a terminal", () => {
    expect(textOf(report)).toBe(`What was run where (2026-11-29, linux 6.18, x64, cgroup v1)

  Debian  containerd  runc   iptables  nftables  CNI plugins  podman  fetched
  sid     2.1.9       1.3.6  1.8.13    1.1.7     1.9.1        -       2026-11-28

  Debian  CNI    what           tests  seconds  result
  sid     1.0.0  demo           13     12       passed
  sid     1.1.0  test/cri: end  0      6        1 FAILED

Failed:
  sid, CNI 1.1.0, test/cri: end: end: failed: leaves nothing

Not run:
  trixie: not asked for
`);
  });

  test("says the same on a page", () => {
    const page = markdownOf(report);
    expect(page).toContain(`
| Debian | containerd | runc  | iptables | nftables | CNI plugins | podman | fetched    |
| ------ | ---------- | ----- | -------- | -------- | ----------- | ------ | ---------- |
| sid    | 2.1.9      | 1.3.6 | 1.8.13   | 1.1.7    | 1.9.1       | -      | 2026-11-28 |
`);
    expect(page).toContain("| sid    | 1.1.0 | test/cri: end | 0     | 6       | 1 FAILED |");
    expect(page).toContain("- sid, CNI 1.1.0, test/cri: end: end: failed: leaves nothing");
    expect(page).toContain("- trixie: not asked for");
  });
});

describe("a part of a page", () => {
  const marked = "<!-- x: begin -->\n\nnew\n\n<!-- x: end -->";

  test.each([
    ["makes an empty page", "", `${marked}\n`],
    ["goes to the end of a page without it", "# Tested\n", `# Tested\n\n${marked}\n`],
    ["takes its former self's place", "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", `a\n${marked}\nb\n`],
  ])("%s", (_, before, after) => {
    expect(withPart(before, "x", "new")).toBe(after);
    expect(withPart(after, "x", "new")).toBe(after);
  });

  test("is not put where its end cannot be known", () => {
    expect(() => withPart("<!-- x: begin -->\nold\n", "x", "new")).toThrow(/has "<!-- x: begin -->" and no/);
  });
});
