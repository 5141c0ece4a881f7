// SPDX-License-Identifier: Apache-2.0
// What a machine left: what it says of itself, and how its steps went.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readDemo, readSuiteReport, type SuiteResult } from "../runtimes/suite-results.ts";
import type { Step } from "./plan.ts";
import type { MachineRow } from "./report.ts";

/** What a machine says of itself, versions as numbers alone. */
export type Description = Pick<MachineRow, "kernel" | "processor" | "cgroups" | "iptables" | "nftables">;

/** Reads init.sh's lines of a word and its value. Pure. */
export function readDescription(text: string): Description {
  const words = new Map(text.split("\n").map((line) => [line.split(" ")[0], line.replace(/^\S+ /, "")]));
  const version = (name: string): string => /v(\d+(?:\.\d+)+)/.exec(words.get(name) ?? "")?.[1] ?? "-";
  const variant = /\((nf_tables|legacy)\)/.exec(words.get("iptables") ?? "")?.[1];
  return {
    // the build's version where it is told, for the release may name a series alone; without what names Debian's build
    kernel: /(?:Debian |^)(\d+\.\d+\.\d+)(?!.*Debian)/.exec(words.get("kernel") ?? "")?.[1] ?? "-",
    processor: words.get("processor") ?? "-",
    cgroups: words.get("cgroups") === "cgroup2fs" ? "v2" : (words.get("cgroups") ?? "-"),
    iptables: `${version("iptables")}${variant === "legacy" ? " legacy" : ""}`,
    nftables: version("nftables"),
  };
}

/** How a step went that ended with this exit code; undefined: it did not end. */
export async function readStep(step: Step, folder: string, code: number | undefined): Promise<SuiteResult> {
  const result = code === undefined ? { passed: 0, failures: [] } : await readResult(step, folder, code);
  const limit = code === 124 || code === 137 ? [`ended after ${step.limit} s`] : [];
  const failures = [...limit, ...result.failures];
  if (code === undefined) failures.push("did not end");
  else if (code !== 0 && failures.length === 0) failures.push(`exit code ${code}`);
  return { passed: result.passed, failures };
}

async function readResult(
  { kind, name, without = [] }: Step,
  folder: string,
  code: number,
): Promise<SuiteResult> {
  const text = await readIfThere(join(folder, `${name}.log`));
  switch (kind) {
    case "build":
      return { passed: code === 0 ? 1 : 0, failures: [] };
    case "demo":
      return readDemo(text);
    case "doctor":
      return readDoctor(text);
    case "suite": {
      const json = await readIfThere(join(folder, `${name}.json`));
      return json === ""
        ? { passed: 0, failures: ["vitest ended without a report"] }
        : readSuiteReport(json, [name.replace(/^cri-/, "")], without);
    }
  }
}

/** Reads the lines of doctor.ts. Pure. */
export function readDoctor(text: string): SuiteResult {
  const lines = text.split("\n").filter((line) => /^(right|known|WRONG) /.test(line));
  const failures = lines
    .filter((line) => line.startsWith("WRONG "))
    .map((line) => line.slice("WRONG ".length));
  const passed = lines.filter((line) => line.startsWith("right ")).length;
  return { passed, failures: lines.length === 0 ? ["the doctor said nothing"] : failures };
}

/** The text of a file; empty when there is none. */
export async function readIfThere(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
}
