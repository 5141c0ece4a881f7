// SPDX-License-Identifier: Apache-2.0
// `npm run demo`: a pod is captured and handed to ztunnel on a real kernel, in a node of its own. See walk.ts for the steps.
import { parseArgs } from "node:util";
import { DASHBOARD_PORT } from "../../src/cli/dashboard-command.ts";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { runInNode } from "../support/node/run-in-node.ts";
import { DashboardRelay } from "./dashboard-relay.ts";
import { execInDemo } from "./exec-in-demo.ts";
import { keepUp } from "./keep-up.ts";
import { dashboardSocket, findKeptDemo, pathInNode } from "./kept-demo.ts";
import { Report } from "./report.ts";
import { Scene } from "./scene.ts";
import { endTheScene, steps } from "./walk.ts";

const help = `usage: npm run demo [-- OPTION...]
       npm run -s demo -- --exec COMMAND [OPTION...]

Captures pods on a small node of its own, in new namespaces of this machine, and verifies each claim against the kernel.
Nothing is left behind. Needs root.

options:
  --json                  print one JSON object as the last line
  --keep                  stay up at the end, with captured pods to look at, until Ctrl-C
  --dashboard-port PORT   with --keep: where 127.0.0.1 serves the dashboard, default ${DASHBOARD_PORT} or any free one
  --exec COMMAND          run a command of ambient-cni in a demo that stays up: status, verify, doctor, debug client shop, ...
`;

interface Options {
  readonly json: boolean;
  readonly keep: boolean;
  readonly port: number | undefined;
}

async function main(args: readonly string[]): Promise<number> {
  if (args[0] === "--exec") return await execInDemo(args.slice(1));
  const options = readOptions(args);
  if (typeof options === "number") return options;
  return insideNode() === undefined ? await startNode(args, options) : await runDemo(options);
}

/** On the machine: everything else happens in a node, which a browser reaches through us. */
async function startNode(args: readonly string[], options: Options): Promise<number> {
  const tools = ["nft", "tcpdump"];
  if (!options.keep) return await runInNode(import.meta.filename, args, { tools });
  try {
    await using relay = await offerDashboard(options.port);
    const port = ["--dashboard-port", String(relay.port)];
    return await runInNode(import.meta.filename, [...args, ...port], { tools });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).syscall !== "listen") throw error;
    process.stderr.write(
      `demo: Cannot offer the dashboard: ${(error as Error).message}; take another port\n`,
    );
    return 1;
  }
}

async function offerDashboard(port: number | undefined): Promise<DashboardRelay> {
  const findSocket = async (): Promise<string | undefined> => {
    const demo = await findKeptDemo(process.pid);
    return demo === undefined ? undefined : pathInNode(demo.pid, dashboardSocket);
  };
  if (port !== undefined) return await DashboardRelay.outside(port, findSocket);
  return await DashboardRelay.outside(DASHBOARD_PORT, findSocket).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EADDRINUSE") throw error;
    return DashboardRelay.outside(0, findSocket);
  });
}

async function runDemo(options: Options): Promise<number> {
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
    keeping = true;
    await keepUp(scene, { port: options.port ?? DASHBOARD_PORT, until: interrupted.promise });
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

function readOptions(args: readonly string[]): Options | number {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        json: { type: "boolean", default: false },
        keep: { type: "boolean", default: false },
        "dashboard-port": { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    const text = values["dashboard-port"];
    const port = text === undefined ? undefined : Number(text);
    if (text !== undefined && !(/^\d+$/.test(text) && Number(text) <= 65_535))
      throw new Error(`Cannot use "${text}" as --dashboard-port: a port is a number from 0 to 65535`);
    if (port !== undefined && !values.keep)
      throw new Error("Cannot use --dashboard-port without --keep: the node is gone when the demo ends");
    if (!values.help) return { json: values.json, keep: values.keep, port };
    process.stdout.write(help);
    return 0;
  } catch (error) {
    process.stderr.write(`demo: ${(error as Error).message}\n\n${help}`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
if (insideNode() !== undefined) process.exit();
