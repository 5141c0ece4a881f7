// SPDX-License-Identifier: Apache-2.0
// What restart.test.ts does inside a node: a full node whose agent comes and goes.
import { MeshNode } from "../support/node/mesh-node.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { waitFor } from "../support/node/wait-for.ts";
import type { StandInEvent } from "../support/ztunnel/event-log.ts";
import { type FleetPod, startFleet } from "./verified-fleet.ts";

const podCount = 110;
const statusAnnotation = "ambient.istio.io/redirection";

const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "1", LOG_LEVEL: "debug" },
});
mesh.kubelet.createNamespace("fleet", { "istio.io/dataplane-mode": "ambient" });
await mesh.startAgent();
await mesh.startZtunnel({ depth: "protocol" });
let pods: readonly FleetPod[] = [];

/** Fills the node; resolves when every pod is captured and says so. */
export async function fill(): Promise<void> {
  pods = await startFleet(mesh, "fleet", podCount);
  const all = (): boolean =>
    pods.every(
      (pod) =>
        mesh.api.store.get("pods", pod.name, "fleet").metadata.annotations?.[statusAnnotation] === "enabled",
    );
  await waitFor("every pod to be annotated", all, { timeoutMs: 20_000, intervalMs: 20 });
}

/** What a restart did, seen by everybody but the agent. */
export interface RestartEffects {
  /** From the agent's last list on, until readiness, and until ztunnel has everything. */
  readonly readyMs: number;
  readonly servedMs: number;
  readonly ruleWrites: number;
  readonly annotationWrites: number;
  /** Messages to ztunnel by kind. */
  readonly messages: Readonly<Record<string, number>>;
  /** Pods that were named in an Add, each once. */
  readonly podsAdded: number;
  /** On which ztunnel was told something. One that reaches the old agent's backlog while the kernel takes it down is none. */
  readonly connections: number;
  /** Of the messages, those that came when the snapshot was complete; and pods ztunnel has let go of. */
  readonly afterSnapshot: number;
  readonly podsDropped: number;
  /** Namespaces ztunnel has under another identity than before. */
  readonly moved: number;
}

/** Replaces the agent and watches until the next one has looked at every pod twice. */
export async function restart(signal: "SIGTERM" | "SIGKILL"): Promise<RestartEffects> {
  const generations = await allGenerations();
  const before = await mesh.ztunnel.stats();
  const patches = mesh.api.requestsOf("patch", "pods").length;
  const lists = mesh.api.requests.length;
  const eventsBefore = mesh.ztunnel.events.length;
  if (signal === "SIGTERM") await mesh.agent.stop();
  else await mesh.agent.kill();
  await mesh.startAgent();
  const readyAt = performance.now();
  await mesh.ztunnel.waitFor(
    (event) => event.event === "response" && event.to === "snapshot-sent",
    10_000,
    eventsBefore,
  );
  const servedAt = performance.now();
  await waitFor("every pod to have been looked at twice", () => timesLookedAt() >= 2, {
    timeoutMs: 15_000,
    intervalMs: 50,
  });
  const listedAt = Math.max(
    ...mesh.api.requests
      .slice(lists)
      .filter(({ verb }) => verb === "list")
      .map(({ atMs }) => atMs),
  );
  const after = await mesh.ztunnel.stats();
  const events = mesh.ztunnel.events.slice(eventsBefore);
  const messages = events.filter((event) => event.event === "message");
  const ruleWrites = (await allGenerations()).reduce((sum, each, i) => sum + each - (generations[i] ?? 0), 0);
  return {
    readyMs: readyAt - listedAt,
    servedMs: servedAt - listedAt,
    ruleWrites,
    annotationWrites: mesh.api.requestsOf("patch", "pods").length - patches,
    messages: Object.fromEntries(
      Object.entries(Object.groupBy(messages, (message) => String(message.kind))).map(([kind, list]) => [
        kind,
        list?.length ?? 0,
      ]),
    ),
    podsAdded: new Set(messages.filter(({ kind }) => kind === "add").map(({ uid }) => uid)).size,
    afterSnapshot: messages.length - 1 - messages.findIndex(({ kind }) => kind === "snapshot-sent"),
    podsDropped: events.filter((event) => event.event === "pod-removed").length,
    connections: events.filter(isFirstMessage).length,
    moved: pods.filter(({ uid }) => after.workloads[uid]?.ino !== before.workloads[uid]?.ino).length,
  };
}

/** Whether it is the first message of a connection. */
function isFirstMessage({ event }: StandInEvent, index: number, all: readonly StandInEvent[]): boolean {
  const before = all.slice(0, index).findLast((other) => ["connect", "message"].includes(other.event));
  return event === "message" && before?.event !== "message";
}

function allGenerations(): Promise<number[]> {
  return Promise.all(pods.map((pod) => ruleGeneration(pod.netns)));
}

/** How often the agent of now has looked at the pod it looked at least. */
function timesLookedAt(): number {
  const times = new Map(pods.map((pod) => [pod.uid, 0]));
  for (const { json } of mesh.agent.lines) {
    const known = json?.msg === "looked at a pod" ? times.get(String(json.uid)) : undefined;
    if (known !== undefined) times.set(String(json?.uid), known + 1);
  }
  return Math.min(...times.values());
}
