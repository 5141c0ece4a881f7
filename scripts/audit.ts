// SPDX-License-Identifier: Apache-2.0
// Asks the npm registry for advisories about what the agent is made of. One that serves none is no failure, and is said.
import { spawnSync } from "node:child_process";
import { join } from "node:path";

/** An advisory about a package. */
export interface Advisory {
  readonly name: string;
  readonly severity: string;
  readonly range: string;
}

/** What the registry said, or why it said nothing. */
export type AuditAnswer =
  | { readonly asked: true; readonly advisories: readonly Advisory[] }
  | { readonly asked: false; readonly why: string };

const failing: ReadonlySet<string> = new Set(["high", "critical"]);

/**
 * Reads what `npm audit --json` prints. Pure.
 * Source: npm 11, npm-audit-report reporters/json.js; an error has `error` in the place of `vulnerabilities`.
 */
export function readAudit(stdout: string): AuditAnswer {
  let answer: unknown;
  try {
    answer = JSON.parse(stdout);
  } catch {
    return { asked: false, why: "npm audit printed no JSON" };
  }
  const { vulnerabilities, message, error } = Object(answer) as Record<string, unknown>;
  if (typeof vulnerabilities !== "object" || vulnerabilities === null) {
    const { summary } = Object(error) as Record<string, unknown>;
    return { asked: false, why: String(message || summary || "the answer has no list of vulnerabilities") };
  }
  const advisories = Object.entries(vulnerabilities).map(([name, found]) => {
    const { severity, range } = Object(found) as Record<string, unknown>;
    return { name, severity: String(severity), range: String(range) };
  });
  return { asked: true, advisories };
}

/** The lines to print, and whether the agent must not be shipped so. Pure. */
export function judgeAudit(
  agents: AuditAnswer,
  builders: AuditAnswer,
): { lines: string[]; isFailure: boolean } {
  if (!agents.asked) return { lines: [`not asked, and nothing is known: ${agents.why}`], isFailure: false };
  const say = (whose: string) => (each: Advisory) =>
    `${each.severity}: ${each.name} ${each.range} (${whose})`;
  const own = new Set(agents.advisories.map(({ name }) => name));
  const others = builders.asked ? builders.advisories.filter(({ name }) => !own.has(name)) : [];
  const lines = [...agents.advisories.map(say("in the agent")), ...others.map(say("for building and tests"))];
  const isFailure = agents.advisories.some(({ severity }) => failing.has(severity));
  return { lines: lines.length > 0 ? lines : ["no advisory about any package"], isFailure };
}

function ask(...args: string[]): AuditAnswer {
  const { stdout, error } = spawnSync("npm", ["audit", "--json", ...args], {
    cwd: join(import.meta.dirname, ".."),
    encoding: "utf8",
    timeout: 60_000,
    maxBuffer: 1 << 26,
  });
  if (error !== undefined) return { asked: false, why: error.message };
  return readAudit(stdout);
}

if (import.meta.main) {
  const agents = ask("--omit=dev");
  const { lines, isFailure } = judgeAudit(agents, agents.asked ? ask() : agents);
  for (const line of lines) process.stdout.write(`audit: ${line}\n`);
  process.exitCode = isFailure ? 1 : 0;
}
