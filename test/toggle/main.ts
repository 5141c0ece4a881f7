// SPDX-License-Identifier: Apache-2.0
// `npm run test:toggle`: traffic in every direction while pods enter and leave the mesh, in its long form.
import { parseArgs } from "node:util";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import { AgentWorld } from "./agent-world.ts";
import { ByHandWorld, type StepOrder } from "./by-hand-world.ts";
import { deleteServers } from "./deleted-pods.ts";
import { runRounds } from "./toggle-rounds.ts";
import { everyKind, makeScene, type ToggleName, toggleNames } from "./toggle-scene.ts";
import type { ToggleWorld } from "./toggle-world.ts";
import { deletionWrongs, renderReport, wrongs } from "./verdict.ts";

const help = `usage: node test/toggle/main.ts [OPTION...]

Runs on a small node of its own, in new namespaces of this machine. Nothing is left behind. Needs root.

options:
  --rounds N       each of leaving and entering (default 50)
  --requests N     rounds go on until every way has had so many (default 10000)
  --pods N         servers that are deleted while a peer keeps a connection to them (default 30)
  --toggle NAME    what enters and leaves: client, server or namespace; may be repeated (default: all at the same time)
  --by-hand ORDER  without an agent, the steps in this order: rules-first (the control, which must fail) or ztunnel-first
`;

interface MainOptions {
  readonly rounds: number;
  readonly requests: number;
  readonly pods: number;
  readonly toggles: readonly ToggleName[];
  readonly byHand: StepOrder | undefined;
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  if (typeof options === "number") return options;
  if (insideNode() === undefined) return await runInNode(import.meta.filename, args);
  followOuter();
  // with this process the whole node ends, nothing has to be taken down
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
  return await toggle(options, (line) => process.stdout.write(`${line}\n`));
}

async function toggle(options: MainOptions, say: (line: string) => void): Promise<number> {
  const world = await makeWorld(options.byHand);
  const scene = await makeScene(world, options.toggles);
  const report = await runRounds(scene, { world, load: everyKind, ...options, say });
  say(renderReport(report));
  const deletions = await deleteServers(world, options.pods);
  say(
    `${deletions.deleted} servers deleted: ${deletions.leftBehind} connections left behind, ` +
      `the others gone within ${deletions.longestMs} ms`,
  );
  const wrong = [...wrongs(report), ...deletionWrongs(deletions)];
  for (const line of wrong) say(line);
  say(wrong.length === 0 ? "no request was lost" : "requests were lost");
  return wrong.length === 0 ? 0 : 1;
}

async function makeWorld(byHand: StepOrder | undefined): Promise<ToggleWorld> {
  const mesh = await MeshNode.start();
  if (byHand !== undefined) return await ByHandWorld.start(mesh, { order: byHand });
  await mesh.startAgent();
  await mesh.startZtunnel();
  await mesh.ztunnel.waitForReady();
  return new AgentWorld(mesh);
}

function readOptions(args: readonly string[]): MainOptions | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        rounds: { type: "string", default: "50" },
        requests: { type: "string", default: "10000" },
        pods: { type: "string", default: "30" },
        toggle: { type: "string", multiple: true, default: [...toggleNames] },
        "by-hand": { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      process.stdout.write(help);
      return 0;
    }
    const orders = ["rules-first", "ztunnel-first"] as const;
    const byHand = values["by-hand"];
    return {
      rounds: readNumber("rounds", values.rounds),
      requests: readNumber("requests", values.requests),
      pods: readNumber("pods", values.pods),
      toggles: values.toggle.map((name) => readWord("toggle", name, toggleNames)),
      byHand: byHand === undefined ? undefined : readWord("by-hand", byHand, orders),
    };
  } catch (error) {
    process.stderr.write(`toggle: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

function readNumber(name: string, text: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`--${name} "${text}" is no number`);
  return Number(text);
}

function readWord<T extends string>(name: string, text: string, words: readonly T[]): T {
  const word = words.find((each) => each === text);
  if (word === undefined) throw new Error(`--${name} "${text}" is none of ${words.join(", ")}`);
  return word;
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
