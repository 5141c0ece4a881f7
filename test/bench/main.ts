// SPDX-License-Identifier: Apache-2.0
// `npm run bench`: what the agent and its plugin cost, measured on a node of its own against their floors and budgets.
import { availableParallelism, loadavg } from "node:os";
import { parseArgs } from "node:util";
import type { CniCall } from "../support/node/cni-runtime.ts";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import { measureAdd } from "./add-bench.ts";
import { type Measurements, overBudget, renderJson, renderTable } from "./bench-report.ts";
import { measureFleet, settled } from "./fleet-bench.ts";
import { measureLauncher } from "./launcher-bench.ts";
import { measureQuiet } from "./quiet-bench.ts";
import { measureRules } from "./rules-bench.ts";
import { measureToggle } from "./toggle-bench.ts";

const help = `usage: npm run bench [-- OPTION...]

Measures on a small node of its own, in new namespaces of this machine. Nothing is left behind. Needs root.
Exit code 1 when something could not be measured or verified; with --strict also when a budget is not kept.

options:
  --json         print one JSON object as the last line
  --samples N    pods and rule sets for each median (default 30)
  --strict       fail when a number is over its budget
`;

interface BenchOptions {
  readonly json: boolean;
  readonly strict: boolean;
  readonly samples: number;
}

const megabyte = 1024 * 1024;
/** The long form is `npm run test:toggle`. */
const toggleRounds = 5;

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  if (insideNode() === undefined)
    return await runInNode(import.meta.filename, args, { tools: ["nft", "iptables-nft-restore"] });
  followOuter();
  // with this process the whole node ends, nothing has to be taken down
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  const measured = await measureAll(options.samples, (line) => process.stderr.write(`bench: ${line}\n`));
  process.stdout.write(`\n${renderTable(measured)}\n\n`);
  if (options.json) process.stdout.write(`${renderJson(measured)}\n`);
  return options.strict && overBudget(measured).length > 0 ? 1 : 0;
}

async function measureAll(samples: number, say: (line: string) => void): Promise<Measurements> {
  const [load = 0] = loadavg();
  if (load > availableParallelism() / 2)
    say(`the machine is busy (load ${load.toFixed(1)}): times will be too long`);
  say("starting the launcher");
  const { launcher, nothing } = await measureLauncher(samples * 5);
  // before the node is there: a large process starts others more slowly, and the agent is small
  say("writing rules of fresh pods");
  const rules = await measureRules(samples);
  const calls: CniCall[] = [];
  const mesh = await MeshNode.start({ onCniCall: (call) => calls.push(call) });
  await mesh.startAgent();
  await mesh.startZtunnel({ maxBackoffMs: 200 });
  await mesh.ztunnel.waitForReady();
  await settled(mesh);
  const rss0 = mesh.agent.rssBytes();
  say("starting pods");
  const add = await measureAdd(mesh, { samples, calls });
  const quiet = await measureQuiet(mesh, { pods: 60, drifts: 100, say });
  const fleet = await measureFleet(mesh, { pods: 110, say });
  const toggle = await measureToggle(mesh, { rounds: toggleRounds, say });
  return {
    launcher_ms_p50: launcher,
    true_ms_p50: nothing,
    add_mesh_ms_p50: add.addMesh,
    add_mesh_ms_p99: add.addMeshP99,
    add_sidecar_ms_p50: add.addSidecar,
    add_sidecar_to_mesh: add.addSidecar / add.addMesh,
    add_other_ms_p50: add.addOther,
    chain_plain_ms_p50: add.chainPlain,
    chain_mesh_ms_p50: add.chainMesh,
    chain_other_ms_p50: add.chainOther,
    rules_replay_ms_p50: rules.replay,
    rules_native_ms_p50: rules.native,
    rules_sidecar_ms_p50: rules.sidecar,
    check_ms_p50: rules.check,
    full_check_ms_p50: rules.fullCheck,
    rules_processes: rules.processes,
    rules_floor_ms_p50: rules.floor,
    iptables_c25_ms_p50: rules.checks25,
    single_pod_ms: fleet.singlePodMs,
    first_pod_ms: fleet.firstPodMs,
    label_110_s: fleet.labelSeconds,
    restart_110_s: fleet.restartSeconds,
    restart_110_rule_writes: fleet.restartRuleWrites,
    idle_110_cpu_s_per_min: fleet.idleCpuSeconds,
    idle_cpu_s_per_min: quiet.idleCpuSeconds,
    idle_floor_cpu_s_per_min: quiet.idleFloorSeconds,
    drift_heal_ms_p50: quiet.driftP50,
    drift_heal_ms_p99: quiet.driftP99,
    pss_60_mb: quiet.pssBytes / megabyte,
    anon_60_mb: quiet.anonymousBytes / megabyte,
    rss_0_mb: rss0 / megabyte,
    rss_110_mb: fleet.rssBytes / megabyte,
    toggle_requests: toggle.requests,
    toggle_failed: toggle.failed,
    toggle_hung: toggle.hung,
  };
}

function readOptions(args: readonly string[]): BenchOptions | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        json: { type: "boolean", default: false },
        strict: { type: "boolean", default: false },
        samples: { type: "string", default: "30" },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      process.stdout.write(help);
      return 0;
    }
    const samples = Number(values.samples);
    if (!Number.isInteger(samples) || samples < 1)
      throw new Error(`--samples "${values.samples}" is no number above 0`);
    return { json: values.json, strict: values.strict, samples };
  } catch (error) {
    process.stderr.write(`bench: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
