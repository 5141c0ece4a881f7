// SPDX-License-Identifier: Apache-2.0
// What bounded.test.ts does inside a node: words and answers without measure, and what they cost the agent.
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { ask } from "../status/state-client.ts";
import { writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import { HostileApiServer, type ListMode, rawPod } from "../support/hostile-api-server.ts";
import { AgentProcess } from "../support/node/agent-process.ts";
import type { LoopReport } from "../support/node/loop-probe.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const probePath = "/run/node/loop.sock";
const probed = {
  NODE_OPTIONS: `--import ${new URL("../support/node/loop-probe.ts", import.meta.url).href}`,
  LOOP_PROBE: probePath,
};
const reroute = "istio.io/reroute-virtual-interfaces";
/** As much as Kubernetes takes of all annotations of an object together. */
const annotationBytes = 256 << 10;

/** What something cost the agent. */
export interface Cost {
  /** Before it, with nothing going on. */
  readonly quiet: LoopReport;
  readonly loop: LoopReport;
  readonly rssRiseMb: number;
  /** Lines of its log, and the bytes of these. */
  readonly lines: number;
  readonly lineBytes: number;
}

async function readLoop(): Promise<LoopReport> {
  return JSON.parse(await text(connect(probePath))) as LoopReport;
}

async function costOf(agent: AgentProcess, work: () => Promise<void>): Promise<Cost> {
  await readLoop();
  await delay(1000);
  const quiet = await readLoop();
  const before = agent.lines.length;
  await work();
  const loop = await readLoop();
  const lines = agent.lines.slice(before);
  return {
    quiet,
    loop,
    rssRiseMb: loop.rssMb - quiet.rssMb,
    lines: lines.length,
    lineBytes: lines.reduce((sum, line) => sum + line.text.length, 0),
  };
}

const contents: Readonly<Record<string, string>> = {
  "unusable names": "!,".repeat(annotationBytes / 2),
  "one name": "a".repeat(annotationBytes),
  commas: ",".repeat(annotationBytes),
  "distinct names": Array.from({ length: 38_000 }, (_, index) => `t${index}`).join(","),
  "characters that JSON escapes": "\u0001".repeat(annotationBytes),
  "line breaks and ESC": "\n\u001b[2J".repeat(annotationBytes / 5),
  "wide characters": "😀".repeat(annotationBytes / 4),
};

let mesh: MeshNode | undefined;

async function meshNode(): Promise<MeshNode> {
  if (mesh !== undefined) return mesh;
  mesh = await MeshNode.start({ agentEnv: probed });
  mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
  await mesh.startAgent();
  await mesh.startZtunnel({ maxBackoffMs: 100 });
  await mesh.ztunnel.waitForReady();
  await mesh.kubelet.runPod({ namespace: "mesh", name: "first" });
  return mesh;
}

/** Pods with each of the contents, written anew 20 times. */
export async function annotations(): Promise<
  Cost & { readonly states: readonly string[]; readonly warnings: readonly string[] }
> {
  const { kubelet, api, agent } = await meshNode();
  const names: string[] = [];
  const cost = await costOf(agent, async () => {
    for (const content of Object.values(contents)) {
      const name = `evil-${names.length}`;
      names.push(name);
      await kubelet.runPod({ namespace: "mesh", name, annotations: { [reroute]: content } });
      for (let flip = 0; flip < 20; flip++) {
        api.edit("pods", { namespace: "mesh", name }, (object) => {
          object.metadata.annotations = {
            ...object.metadata.annotations,
            [reroute]: `${"?".repeat(flip)},${content}`,
          };
        });
        await delay(10);
      }
    }
    await delay(1000);
  });
  const { pods } = (await ask({ socketPath }, "/api/v1/pods")).json() as unknown as {
    readonly pods: readonly {
      readonly name: string;
      readonly state: string;
      readonly desired: { readonly warnings: readonly string[] };
    }[];
  };
  const evil = pods.filter(({ name }) => names.includes(name));
  return {
    ...cost,
    states: evil.map(({ state }) => state),
    warnings: evil.flatMap(({ desired }) => desired.warnings),
  };
}

interface Hostile {
  readonly server: HostileApiServer;
  readonly agent: AgentProcess;
}

async function withHostile<T>(work: (hostile: Hostile) => Promise<T>): Promise<T> {
  await mesh?.agent.stop();
  const server = await HostileApiServer.start();
  server.pods = [rawPod("a"), rawPod("b")];
  const kubeconfig = writeKubeconfig("/run/node/hostile-kubeconfig", server.url);
  const agent = await AgentProcess.start({ nodeName: "node-1", kubeconfig, env: probed });
  try {
    await agent.waitReady();
    await waitFor("the watch of pods", () => server.watchCount === 1);
    return await work({ server, agent });
  } finally {
    await agent.stop();
    await server.close();
  }
}

/** The agent's copy of the pods. */
async function watchOfPods(): Promise<{ readonly objects: number; readonly failures: number }> {
  const { watches } = (await ask({ socketPath }, "/api/v1/node")).json() as unknown as {
    readonly watches: readonly {
      readonly name: string;
      readonly objects: number;
      readonly failures: number;
    }[];
  };
  const found = watches.find(({ name }) => name === "pods");
  if (found === undefined) throw new Error("the agent does not watch pods");
  return found;
}

/** So many events at once, of pods of this node or of others; the last one is a new pod of this node's. */
export async function burst(count: number, nodeName: string): Promise<Cost> {
  return await withHostile(async ({ server, agent }) => {
    const events = Array.from({ length: count }, (_, index) => {
      const pod = rawPod(`p${index % 200}`, {
        nodeName,
        version: 1000 + index,
        annotations: { pad: "x".repeat(500) },
      });
      return { type: "MODIFIED", object: pod };
    });
    const { objects } = await watchOfPods();
    const known = nodeName === "node-1" ? objects + 200 : objects;
    return await costOf(agent, async () => {
      await server.send([...events, { type: "ADDED", object: rawPod("last", { version: 1_000_000 }) }]);
      await waitFor("the last event", async () => (await watchOfPods()).objects === known + 1, {
        timeoutMs: 60_000,
        intervalMs: 100,
      });
    });
  });
}

/** The agent's copy while three lists fail, and after a good one. */
export async function list(
  mode: ListMode,
): Promise<Cost & { readonly kept: number; readonly after: number; readonly alive: boolean }> {
  return await withHostile(async ({ server, agent }) => {
    let kept = 0;
    const { failures } = await watchOfPods();
    const cost = await costOf(agent, async () => {
      server.mode = mode;
      server.expire();
      // the end of the watch, and two lists
      await waitFor("failed lists", async () => (await watchOfPods()).failures >= failures + 3, {
        timeoutMs: 90_000,
        intervalMs: 50,
      });
      kept = (await watchOfPods()).objects;
    });
    server.pods = [rawPod("a"), rawPod("b"), rawPod("c")];
    server.mode = "good";
    const after = await waitFor(
      "the good list",
      async () => {
        const { objects } = await watchOfPods();
        return objects !== 2 && objects;
      },
      { timeoutMs: 60_000, intervalMs: 50 },
    );
    return { ...cost, kept, after, alive: agent.running };
  });
}
