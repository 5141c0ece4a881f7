// SPDX-License-Identifier: Apache-2.0
// What is made of the registry's advisories, and of a registry that has none to give.
import { describe, expect, test } from "vitest";
import { judgeAudit, readAudit } from "../../scripts/audit.ts";

const answer = (found: Record<string, string>) =>
  JSON.stringify({
    auditReportVersion: 2,
    vulnerabilities: Object.fromEntries(
      Object.entries(found).map(([name, severity]) => [name, { name, severity, range: "<2.0.0", via: [] }]),
    ),
    metadata: {},
  });

describe("the answer", () => {
  test.each([
    // as a registry that only gives packages away answers
    [
      '{"message":"405 Method Not Allowed - POST https://registry.example/-/npm/v1/security/advisories/bulk","statusCode":405,"body":"","error":{"summary":"","detail":""}}',
      "405 Method Not Allowed - POST https://registry.example/-/npm/v1/security/advisories/bulk",
    ],
    ['{"error":{"code":"ENOAUDIT","summary":"audit is off"}}', "audit is off"],
    ["{}", "the answer has no list of vulnerabilities"],
    ["null", "the answer has no list of vulnerabilities"],
    ['{"vulnerabilities":null}', "the answer has no list of vulnerabilities"],
    ["", "npm audit printed no JSON"],
  ])("%s is no answer, and no failure", (stdout, why) => {
    const read = readAudit(stdout);
    expect(read).toEqual({ asked: false, why });
    expect(judgeAudit(read, read)).toEqual({
      lines: [`not asked, and nothing is known: ${why}`],
      isFailure: false,
    });
  });

  test("without advisories says so", () => {
    const read = readAudit(answer({}));
    expect(judgeAudit(read, read)).toEqual({ lines: ["no advisory about any package"], isFailure: false });
  });
});

test.each([
  ["critical", true],
  ["high", true],
  ["moderate", false],
  ["low", false],
])("an advisory of severity %s in the agent: fails %s", (severity, isFailure) => {
  const read = readAudit(answer({ pino: severity }));
  expect(judgeAudit(read, read)).toEqual({ lines: [`${severity}: pino <2.0.0 (in the agent)`], isFailure });
});

test("one in what builds and tests is printed and fails nothing", () => {
  const agents = readAudit(answer({ pino: "low" }));
  expect(judgeAudit(agents, readAudit(answer({ pino: "low", vitest: "critical" })))).toEqual({
    lines: ["low: pino <2.0.0 (in the agent)", "critical: vitest <2.0.0 (for building and tests)"],
    isFailure: false,
  });
});
