// SPDX-License-Identifier: Apache-2.0
// `npm run test:runtimes`: demo and containerd suite on the container runtimes of several Debians, with what they have around them.
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { release } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chainVersionVariable } from "../cluster/support/real-node.ts";
import { tellsByNri } from "../cri/support/nri-means.ts";
import { writePart } from "../support/result-tables.ts";
import { readDemand } from "../support/skips/means.ts";
import { leftOut, planSteps, type Step } from "./plan.ts";
import { markdownOf, type Report, type RootRow, type RunRow, textOf } from "./report.ts";
import { chainVersions, Root, RootUnavailableError } from "./root.ts";
import { readDemo, readSuiteReport, type SuiteResult } from "./suite-results.ts";

const suites = ["bookworm", "trixie", "sid"];
const help = `usage: npm run test:runtimes [-- OPTION...]

Brings each Debian's containerd, runc, iptables, nftables and CNI plugins into a root of its own, from the archive that this
machine's apt uses, and runs the demo and the containerd suite there, with a chain of each CNI version that the plugins speak;
tests of rules, with their iptables and nftables; and a podman, where there is one that runs chains of CNI.
The kernel is this machine's. Roots are kept in /var/tmp/ambient-cni-roots (DEBIAN_ROOTS_DIR names another folder). Needs root.

options:
  --only SUITES   some of ${suites.join(", ")}; separated by commas
  --short         what a runtime's version can make a difference to, and nothing with many pods
  --write FILE    put the table on a Markdown page as well
`;
const checkout = join(import.meta.dirname, "../..");
const logs = join(checkout, "build/runtimes");
const page = "npm run test:runtimes";
/** Against hanging only: the whole suite takes 5 minutes on a machine with two busy cores. */
const stepMs = 20 * 60_000;

interface Options {
  readonly only: readonly string[];
  readonly short: boolean;
  readonly write: string | undefined;
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  await mkdir(logs, { recursive: true });
  const files = (await readdir(join(checkout, "test/cri")))
    .flatMap((name) => /^(.*)\.test\.ts$/.exec(name)?.[1] ?? [])
    .sort();
  const roots: RootRow[] = [];
  const runs: RunRow[] = [];
  const gaps: string[] = [];
  for (const suite of options.only) {
    const root = await bring(suite, gaps);
    if (root === undefined) continue;
    roots.push({ suite, fetched: root.fetched, ...root.versions });
    const hasPodman = root.versions.podman !== "";
    const hasNri = tellsByNri(root.versions.containerd);
    const input = { chains: root.chains, files, short: options.short, hasPodman, hasNri };
    for (const step of planSteps(input)) {
      const row = await take(root, step);
      runs.push(row);
      const { passed, failures, seconds } = row;
      say(
        `${failures.length === 0 ? "ok  " : "FAIL"} ${suite}, CNI ${row.chain}, ${row.what}: ${passed} in ${seconds} s`,
      );
      for (const line of failures) say(`     ${line}`);
    }
    gaps.push(...leftOut(suite, { ...input, versions: chainVersions, pluginVersion: root.versions.plugins }));
  }
  const rest = suites.filter((suite) => !options.only.includes(suite));
  if (rest.length > 0) gaps.push(`${rest.join(", ")}: not asked for`);
  const report: Report = { date: today(), machine: await machine(), roots, runs, gaps: [...gaps, ...always] };
  say(`\n${textOf(report)}`);
  if (options.write !== undefined) await writePart(options.write, page, markdownOf(report));
  const { requireAll, allowLacking } = readDemand(process.env);
  if (roots.length < options.only.length && requireAll && !allowLacking.includes("debian")) return 1;
  return runs.every(({ failures }) => failures.length === 0) ? 0 : 1;
}

/** What no run of these says. */
const always = [
  "CRI-O and Multus: what they say is played as it was seen by test/kernel/runtime-calls.test.ts and crio-word.test.ts",
  "other kernels, cgroups and processors than this machine's",
];

/** What a machine has not the means for is a gap, what fails ends the run. */
async function bring(suite: string, gaps: string[]): Promise<Root | undefined> {
  say(`bringing the root of Debian ${suite}`);
  try {
    return await Root.bring(suite);
  } catch (error) {
    if (!(error instanceof RootUnavailableError)) throw error;
    say(`SKIP ${suite}: ${error.message}`);
    gaps.push(`${suite}: ${error.message}`);
    return undefined;
  }
}

async function take(root: Root, { chain, kind, files }: Step): Promise<RunRow> {
  const name = `${root.suite}-${chain}-${kind}`;
  const [log, json] = [join(logs, `${name}.log`), join(logs, `${name}.json`)];
  const { argv, what } = programOf(kind, files, json);
  await writeFile(json, "");
  const ending = await root.run(argv, { log, timeoutMs: stepMs, env: { [chainVersionVariable]: chain } });
  const text = await readFile(log, "utf8");
  const result = kind === "demo" ? readDemo(text) : readSuite(await readFile(json, "utf8"), files);
  const failures = [...result.failures];
  if (ending.timedOut) failures.push(`ended after ${stepMs / 1000} s`);
  if (ending.code !== 0 && failures.length === 0) failures.push(`exit code ${ending.code}`);
  if (failures.length > 0) say(`${text.split("\n").slice(-80).join("\n")}\n(the end of ${log})`);
  return { suite: root.suite, chain, what, passed: result.passed, failures, seconds: ending.seconds };
}

function programOf(
  kind: Step["kind"],
  files: readonly string[],
  json: string,
): { readonly argv: readonly string[]; readonly what: string } {
  const vitest = (config: string, folder: string, ending = "test"): readonly string[] => {
    const reporters = ["--reporter=verbose", "--reporter=json", `--outputFile.json=${json}`];
    const paths = files.map((name) => `${folder}/${name}.${ending}.ts`);
    return ["vitest", "run", "--config", config, ...reporters, ...paths];
  };
  const of = (folder: string): string => `${folder}: ${files.join(", ")}`;
  switch (kind) {
    case "demo":
      return { argv: ["node", "test/demo/main.ts", "--json"], what: kind };
    case "containerd":
      return { argv: vitest("test/cri/vitest.config.ts", "test/cri"), what: of("test/cri") };
    case "rules":
      return { argv: vitest("vitest.config.ts", "test/kernel"), what: of("test/kernel") };
    case "podman":
      return { argv: vitest("test/runtimes/vitest.config.ts", "test/runtimes", "runtime"), what: kind };
  }
}

function readSuite(json: string, files: readonly string[]): SuiteResult {
  return json === ""
    ? { passed: 0, failures: ["vitest ended without a report"] }
    : readSuiteReport(json, files);
}

/** Only a machine with cgroup v2 alone has this file there. Source: cgroups(7), "Cgroups v2 controllers". */
async function machine(): Promise<string> {
  const controllers = await readFile("/sys/fs/cgroup/cgroup.controllers", "utf8").catch(() => undefined);
  const cgroups = controllers === undefined ? "cgroup v1" : "cgroup v2";
  // without what the builder of the kernel has added
  const kernel = release().replace(/[^\d.].*$/, "");
  return `linux ${kernel}, ${process.arch}, ${cgroups}`;
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function readOptions(args: readonly string[]): Options | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        only: { type: "string", default: suites.join(",") },
        short: { type: "boolean", default: false },
        write: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    const only = values.only.split(",");
    const unknown = only.find((suite) => !suites.includes(suite));
    if (unknown !== undefined)
      throw new Error(`Cannot use "${unknown}" as --only: it is none of ${suites.join(", ")}`);
    if (!values.help) return { only, short: values.short, write: values.write };
    process.stdout.write(help);
    return 0;
  } catch (error) {
    process.stderr.write(`test:runtimes: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
