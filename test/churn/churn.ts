// SPDX-License-Identifier: Apache-2.0
// One seed: its operations on a fresh node, a look at everything in between, and a report that lets a failure be repeated.
import { setTimeout as delay } from "node:timers/promises";
import { MeshNode } from "../support/node/mesh-node.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { ChurnRun } from "./churn-run.ts";
import { type Fault, faultsOfNode, faultsOfPeers } from "./node-look.ts";
import { describeOperation, type Operation } from "./operations.ts";
import { planChurn } from "./plan.ts";

export interface ChurnOptions {
  readonly seed: number;
  readonly operations: number;
  /** Operations between two looks. */
  readonly every: number;
  /** The last operation that is carried out. */
  readonly until: number;
  readonly debug: boolean;
}

/** Longest time until everything must be right: a watch that has fallen silent is noticed within 60 s, then pods are looked at. */
const settleMs = 75_000;
/** Two periodic checks of every pod. */
const quietMs = 2600;
const maxShownLines = 60;

/** Runs a seed. @returns whether everything was as it should be at each look; the reason was told through `say` if not */
export async function churn(options: ChurnOptions, say: (line: string) => void): Promise<boolean> {
  const { seed, every } = options;
  const operations = planChurn(seed, Math.min(options.operations, options.until));
  const mesh = await MeshNode.start({
    plugin: { agentWaitSeconds: 5 },
    agentEnv: {
      RECONCILE_INTERVAL_SECONDS: "1",
      ZTUNNEL_WAIT_SECONDS: "2",
      LOG_LEVEL: options.debug ? "debug" : "info",
    },
  });
  const run = new ChurnRun(mesh);
  let done = 0;
  let sure = 0;
  try {
    await run.peers.start();
    const startMs = performance.now();
    for (const operation of operations) {
      await run.begin(operation);
      done++;
      if (done % every !== 0 && done !== operations.length) continue;
      await run.finish();
      const settledMs = await untilRight(run);
      sure = done;
      const captured = [...run.model.pods.values()].filter((pod) => run.model.wanted(pod)).length;
      say(
        `seed ${seed}: ${done}/${operations.length} after ${Math.round((performance.now() - startMs) / 1000)} s; right ${Math.round(settledMs)} ms later: ` +
          `${run.model.pods.size} pods, ${captured} captured, agent ${Math.round(mesh.agent.rssBytes() / 2 ** 20)} MB`,
      );
      run.endLingering();
    }
    await run.finish();
    await untilRight(run);
    await claimQuiet(run);
    return true;
  } catch (error) {
    const text = (error as Error).stack ?? String(error);
    const faults = error instanceof NotRight ? error.faults : [...faultsOfPeers(run), { text }];
    for (const line of report(run, { faults, operations: operations.slice(0, done), sure, options }))
      say(line);
    return false;
  }
}

class NotRight extends Error {
  readonly faults: readonly Fault[];

  constructor(faults: readonly Fault[]) {
    super(faults.map((fault) => fault.text).join("\n"));
    this.faults = faults;
  }
}

/** @returns how long it took @throws NotRight with what is wrong at the deadline */
async function untilRight(run: ChurnRun): Promise<number> {
  const startMs = performance.now();
  for (;;) {
    const faults = await faultsOfNode(run);
    const tookMs = performance.now() - startMs;
    if (faults.length === 0) return tookMs;
    if (tookMs > settleMs || faultsOfPeers(run).length > 0) throw new NotRight(faults);
    await delay(50);
  }
}

/** Once everything is right nothing is written any more, however often it is looked at. */
async function claimQuiet(run: ChurnRun): Promise<void> {
  const { api } = run.mesh;
  const sandboxes = [...run.model.pods.keys()].flatMap((slot) => run.pod(slot)?.sandbox ?? []);
  const count = (): Promise<number[]> => Promise.all(sandboxes.map(({ netns }) => ruleGeneration(netns)));
  const patches = api.requestsOf("patch", "pods").length;
  const before = await count();
  await delay(quietMs);
  const after = await count();
  const faults = sandboxes.flatMap(({ spec, uid }, index) =>
    before[index] === after[index]
      ? []
      : [{ uid, text: `rules of ${spec.name} were written although nothing was wrong` }],
  );
  if (api.requestsOf("patch", "pods").length !== patches)
    faults.push({ uid: "", text: "annotations were written again" });
  if (faults.length > 0) throw new NotRight(faults);
}

function report(
  run: ChurnRun,
  what: { faults: readonly Fault[]; operations: readonly Operation[]; sure: number; options: ChurnOptions },
): string[] {
  const { faults, operations, sure, options } = what;
  const uids = new Set(faults.flatMap(({ uid }) => (uid ? [uid] : [])));
  const slots = [...run.model.pods.values()].filter((pod) => uids.has(pod.uid));
  const about = operations.flatMap((operation, index) => {
    const concerns =
      index >= sure || !("pod" in operation) || slots.some(({ slot }) => slot === operation.pod);
    return concerns && (index >= sure || "pod" in operation) ? [describeOperation(operation, index)] : [];
  });
  const logs = run.peers.agents.flatMap((agent) => [
    `  agent ${agent.pid}`,
    ...agent.lines
      .filter(({ text }) => [...uids].some((uid) => text.includes(uid)))
      .map(({ text }) => `  ${text}`),
  ]);
  const last = run.mesh.agent.lines.slice(-20).map(({ text }) => `  ${text}`);
  return [
    `seed ${options.seed}: NOT RIGHT after ${operations.length} operations`,
    ...faults.slice(0, 30).map(({ text }) => `  ${text}`),
    `operations since the last look that was right (${sure}), and earlier ones of the same pods:`,
    ...about,
    "what the agents logged about these pods:",
    ...logs.slice(-maxShownLines),
    "the last lines of the last agent:",
    ...last,
    `repeat: node test/churn/main.ts --seed ${options.seed} --operations ${options.operations} --every ${options.every} --until ${operations.length}`,
  ];
}
