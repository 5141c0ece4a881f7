// SPDX-License-Identifier: Apache-2.0
// What the matrix of machines plans, hears and writes; the machines themselves are `npm run test:machines`.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readSuiteReport } from "../runtimes/suite-results.ts";
import { readConsoleLine } from "./console.ts";
import { readOutcome, writePlan } from "./outcome.ts";
import { leftOut, type Machine, machines, planSteps, scriptOf } from "./plan.ts";
import { markdownOf, type Report, textOf } from "./report.ts";
import { readDescription, readDoctor } from "./results.ts";

const machine: Machine = {
  ...{ name: "m", suite: "trixie", arch: "amd64", variant: "" },
  ...{ short: ["native-redirect"], long: ["probes"] },
};
const names = (of: Machine, short: boolean) => planSteps(of, { short }).map(({ name }) => name);

describe("the plan", () => {
  test("has demo, doctor and the files; in the short form some of them", () => {
    expect(names(machine, false)).toEqual(["demo", "doctor", "doctor-native", "native-redirect", "probes"]);
    expect(names(machine, true)).toEqual(["demo", "doctor", "doctor-native", "native-redirect"]);
  });

  test("builds first where this machine's programs do not run", () => {
    expect(names({ ...machine, arch: "arm64" }, true)[0]).toBe("build");
  });

  test("leaves out what a machine cannot do, and says so", () => {
    const cannot = ["demo: there is no iptables"];
    expect(names({ ...machine, cannot }, true)).toEqual(["doctor", "doctor-native", "native-redirect"]);
    expect(leftOut({ ...machine, cannot }, ["doctor", "doctor-native", "native-redirect"])).toEqual([
      "m, demo: there is no iptables",
      "m, probes: not asked for",
    ]);
  });

  test("leaves out a single test, which its report may then call skipped, and no other", () => {
    const cannot = ["probes, in two modes: x: there is one"];
    const step = planSteps({ ...machine, cannot }, { short: false }).find(({ name }) => name === "probes");
    expect(step?.without).toEqual(["in two modes: x"]);
    const pattern = new RegExp(step?.argv[step.argv.indexOf("-t") + 1] ?? "");
    expect(["in two modes: x, and back", "in one mode"].map((name) => pattern.test(name))).toEqual([
      false,
      true,
    ]);
    expect(leftOut({ ...machine, cannot }, names(machine, false))).toEqual([
      "m, probes, in two modes: x: there is one",
    ]);
    const skipped = ["in two modes: x, and back", "in one mode"].map((title) => ({
      status: "skipped",
      title,
    }));
    const report = JSON.stringify({
      testResults: [{ name: "/probes.test.ts", status: "passed", assertionResults: skipped }],
    });
    expect(readSuiteReport(report, ["probes"], step?.without).failures).toEqual([
      "probes: skipped: in one mode",
    ]);
  });

  test("gives each machine a name and each of its steps one", () => {
    expect(new Set(machines.map(({ name }) => name)).size).toBe(machines.length);
    for (const each of machines) expect(new Set(names(each, false)).size).toBe(names(each, false).length);
  });

  test("is a script whose words arrive as they are", () => {
    const words = ["a b", "it's", "$HOME", "*", "", "x=1"];
    const steps = [{ name: "one", kind: "suite", argv: words, limit: 5 }] as const;
    const script = scriptOf({ ...machine, prepare: ["echo prepared $X"] }, steps, { X: "a'b" });
    const step = `step() { for word in "$@"; do echo "<$word>"; done; }`;
    const said = execFileSync("/bin/bash", ["-c", `${step}\n${script}`], { encoding: "utf8" });
    expect(said).toBe(`prepared a'b\n${["one", "5", ...words].map((word) => `<${word}>\n`).join("")}`);
  });
});

describe("the console", () => {
  test.each([
    ["@@ up 6.64\r", { what: "up", atS: 6.64 }],
    ["@@ off 37.01", { what: "off", atS: 37.01 }],
    ["@@ begin demo", { what: "begin", step: "demo" }],
    ["@@ end demo 1 7.99 36.58", { what: "end", step: "demo", code: 1, seconds: 29 }],
    ["[   12.3] veth0: @@ begin demo", { what: "begin", step: "demo" }],
    ["@@ machine lost its disks do not come", { what: "lost", why: "its disks do not come" }],
    ["@@ end demo", undefined],
    ["@@ begin", undefined],
    ["@@ else 1", undefined],
    ["ok   DNS is captured", undefined],
  ])("%j", (line, word) => {
    expect(readConsoleLine(line)).toEqual(word);
  });
});

test("a machine's own words are read, and what it does not say is not guessed", () => {
  const said = [
    ...["kernel 6.12.117+deb13-cloud-amd64", "processor x86_64", "cgroups cgroup2fs"],
    ...["iptables iptables v1.8.11 (legacy)", "nftables nftables v1.1.3 (Commodore Bullmoose #4)"],
  ];
  expect(readDescription(said.join("\n"))).toEqual({
    ...{ kernel: "6.12.117", processor: "x86_64", cgroups: "v2" },
    ...{ iptables: "1.8.11 legacy", nftables: "1.1.3" },
  });
  expect(readDescription("cgroups tmpfs\nnftables bash: nft: command not found")).toEqual({
    ...{ kernel: "-", processor: "-", cgroups: "tmpfs", iptables: "-", nftables: "-" },
  });
});

test.each([
  ["6.1.0-43-cloud-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.162-1 (2026-02-08)", "6.1.162"],
  ["6.12.117+deb13-cloud-amd64 #1 SMP Debian 6.12.117-1 (2026-11-12)", "6.12.117"],
  ["7.2.13+deb14-cloud-amd64", "7.2.13"],
])("linux %j is version %s", (said, kernel) => {
  expect(readDescription(`kernel ${said}`).kernel).toBe(kernel);
});

test("a doctor that says nothing is not right", () => {
  expect(readDoctor("right ok agent: ready\nknown warn api: x\nWRONG fail kernel: refused\n")).toEqual({
    passed: 1,
    failures: ["fail kernel: refused"],
  });
  expect(readDoctor("Segmentation fault\n").failures).toEqual(["the doctor said nothing"]);
});

describe("what a machine left", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "machine-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const leave = (name: string, text: string) => writeFileSync(join(folder, name), text);
  const read = () => readOutcome(machine, folder);

  test("is read whole", async () => {
    await writePlan(folder, planSteps(machine, { short: true }));
    leave("machine", "kernel 6.1.176-amd64\nprocessor x86_64\n");
    leave("demo.log", `seen\n${JSON.stringify({ steps: [{ name: "one", ok: true }] })}\n`);
    leave("doctor-native.log", "right ok agent: ready\n");
    leave("doctor.log", "right ok agent: ready\nWRONG fail kernel: refused\n");
    const ended =
      "@@ end demo 0 4.00 50.20\n@@ begin doctor\n@@ end doctor 1 50.20 60.00\n@@ end doctor-native 0 60.00 60.00\n";
    leave(
      "console.log",
      `@@ up 3.20\n@@ begin demo\n${ended}@@ end native-redirect 137 60.00 70.00\n@@ off 71.00\n`,
    );
    const outcome = await read();
    expect(outcome?.row).toMatchObject({ name: "m", kernel: "6.1.176", bootS: 3.2 });
    expect(outcome?.steps).toEqual([
      { machine: "m", what: "demo", passed: 1, failures: [], seconds: 46 },
      { machine: "m", what: "doctor", passed: 1, failures: ["fail kernel: refused"], seconds: 10 },
      { machine: "m", what: "doctor-native", passed: 1, failures: [], seconds: 0 },
      {
        ...{ machine: "m", what: "native-redirect", passed: 0, seconds: 10 },
        failures: ["ended after 1500 s", "vitest ended without a report"],
      },
    ]);
    expect(outcome?.gaps).toEqual(["m, probes: not asked for"]);
  });

  test("tells of a machine that never came up, and of steps that did not end", async () => {
    await writePlan(folder, planSteps(machine, { short: true }));
    leave("console.log", "@@ machine lost its disks do not come\n");
    const outcome = await read();
    expect(outcome?.row).toBeUndefined();
    expect(outcome?.steps.map(({ what, failures }) => [what, ...failures])).toEqual([
      ["demo", "did not end"],
      ["doctor", "did not end"],
      ["doctor-native", "did not end"],
      ["native-redirect", "did not end"],
      ["its end", "the machine did not switch itself off: its disks do not come"],
    ]);
  });

  test("is nothing where it was never asked for", async () => {
    expect(await read()).toBeUndefined();
  });
});

describe("the table", () => {
  const report: Report = {
    machines: [
      {
        ...{ name: "trixie", kernel: "6.12.117", processor: "x86_64", cgroups: "v2", iptables: "1.8.11" },
        ...{ nftables: "1.1.3", variant: "", bootS: 3.04, date: "2026-11-29" },
      },
    ],
    steps: [
      { machine: "trixie", what: "demo", passed: 14, failures: [], seconds: 46 },
      { machine: "trixie", what: "doctor", passed: 0, failures: ["the doctor said nothing"], seconds: 9 },
    ],
    gaps: ["sid: not asked for"],
  };

  test("says machines, results, failures and gaps on a terminal", () => {
    expect(textOf(report)).toBe(`What was run on which machine

  machine  linux     processor  cgroups  iptables  nftables  boot   run         but
  trixie   6.12.117  x86_64     v2       1.8.11    1.1.3     3.0 s  2026-11-29  -

  machine  what    passed  seconds  result
  trixie   demo    14      46       passed
  trixie   doctor  0       9        1 FAILED

Failed:
  trixie, doctor: the doctor said nothing

Not run:
  sid: not asked for
`);
  });

  test("says the same on a page", () => {
    const text = markdownOf(report);
    const row =
      "| trixie  | 6.12.117 | x86_64    | v2      | 1.8.11   | 1.1.3    | 3.0 s | 2026-11-29 | -   |";
    expect(text).toContain(row);
    expect(text).toContain("| trixie  | doctor | 0      | 9       | 1 FAILED |");
    expect(text).toContain("- trixie, doctor: the doctor said nothing");
    expect(text).toContain("- sid: not asked for");
  });
});
