// SPDX-License-Identifier: Apache-2.0
// `npm run demo`: a pod is captured and handed to ztunnel on a real kernel, in a node of its own. See walk.ts for the steps.
import { parseArgs } from "node:util";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import { Report } from "./report.ts";
import { Scene } from "./scene.ts";
import { captureAgain, endTheScene, steps } from "./walk.ts";

const help = `usage: npm run demo [-- OPTION...]

Captures pods on a small node of its own, in new namespaces of this machine, and verifies each claim against the kernel.
Nothing is left behind. Needs root.

options:
  --json   print one JSON object as the last line
  --keep   stay up at the end, with captured pods to look at, until Ctrl-C
`;

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  const node = insideNode();
  if (node === undefined) return await runInNode(import.meta.filename, args, { tools: ["nft", "tcpdump"] });
  const interrupted = Promise.withResolvers<void>();
  let keeping = false;
  followOuter();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      // with this process the whole node ends, nothing has to be taken down
      if (!keeping) {
        process.stderr.write(`demo: interrupted by ${signal}\n`);
        process.exit(130);
      }
      interrupted.resolve();
    });
  }
  const report = new Report((line) => process.stdout.write(`${line}\n`));
  const scene = await takeWalk(report);
  if (options.keep && scene !== undefined && report.ok) {
    await captureAgain(scene);
    keeping = true;
    const shell = `nsenter --mount --net --pid --target "$(head -n 1 ${node.cgroupFolder}/node/cgroup.procs)"`;
    process.stdout.write(`\nThe node stays up until Ctrl-C. A shell in it:\n  ${shell}\n`);
    const alive = setInterval(() => {}, 60_000);
    await interrupted.promise;
    clearInterval(alive);
  }
  if (scene !== undefined && report.ok)
    await report.step("deleting all pods leaves nothing in the node", () => endTheScene(scene));
  if (!report.ok && scene !== undefined)
    process.stdout.write(`\nThe agent's log:\n${scene.mesh.agent.text}\n`);
  report.summarise();
  if (options.json) process.stdout.write(`${report.json()}\n`);
  return report.ok ? 0 : 1;
}

/** Walks until the first step that fails: later ones build on it. */
async function takeWalk(report: Report): Promise<Scene | undefined> {
  let scene: Scene | undefined;
  await report.step("a node with API server, agent, ztunnel and two pods", async () => {
    scene = await Scene.begin();
    return scene.describe();
  });
  if (scene === undefined) return undefined;
  const begun = scene;
  for (const step of steps) if (!(await report.step(step.name, () => step.take(begun)))) break;
  return begun;
}

function readOptions(args: readonly string[]): { json: boolean; keep: boolean } | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        json: { type: "boolean", default: false },
        keep: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
    if (!values.help) return values;
    process.stdout.write(help);
    return 0;
  } catch (error) {
    process.stderr.write(`demo: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
