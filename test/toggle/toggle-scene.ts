// SPDX-License-Identifier: Apache-2.0
// The pods and ways of the traffic: every kind of peer of a client, a server and a namespace that come and go.
import { join } from "node:path";
import type { Pod, PodModule } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import type { LaneKind } from "./lanes.ts";
import type { Place, ToggleWorld } from "./toggle-world.ts";

type App = PodModule<typeof import("./traffic-app.ts")>;

/** A pod with the program of traffic-app.ts in it. */
export interface TrafficPod {
  readonly pod: Pod;
  readonly app: App;
}

/** Traffic from one pod to another. */
export interface TrafficWay {
  readonly name: string;
  readonly client: TrafficPod;
  readonly server: TrafficPod;
}

/** Pods that enter and leave together, and the traffic that this concerns. */
export interface ToggledPods {
  readonly name: string;
  readonly place: "pod" | "namespace";
  readonly pods: readonly Pod[];
  readonly ways: readonly TrafficWay[];
}

/** How much traffic there is on each way. */
export interface TrafficLoad {
  readonly lanes: Readonly<Partial<Record<LaneKind, number>>>;
  readonly pauseMs: number;
  readonly hungAfterMs: number;
}

/** Two of each kind: one for IPv4, one for IPv6. */
export const everyKind: TrafficLoad = {
  lanes: {
    short: 2,
    kept: 2,
    "kept-lasting": 2,
    slow: 4,
    watch: 2,
    "watch-lasting": 2,
    note: 2,
    "note-lasting": 2,
  },
  pauseMs: 60,
  hungAfterMs: 5000,
};

/** Port of the servers. */
export const trafficPort = 8080;

/** The names of what can be toggled, and the ways they concern. */
export const toggleNames = ["client", "server", "namespace"] as const;
export type ToggleName = (typeof toggleNames)[number];

/** Runs a pod with a server in it. */
export async function runTrafficPod(world: ToggleWorld, name: string, place: Place): Promise<TrafficPod> {
  const pod = await world.runPod(name, place);
  const app: App = await pod.startModule(join(import.meta.dirname, "traffic-app.ts"));
  await app.call.serve(trafficPort);
  return { pod, app };
}

/** Everything that is wanted of it, ready for traffic: what can be toggled is in the mesh. */
export async function makeScene(world: ToggleWorld, wanted: readonly ToggleName[]): Promise<ToggledPods[]> {
  const run = (name: string, place: Place) => runTrafficPod(world, name, place);
  const [mesh, outside] = await Promise.all([run("mesh", "mesh"), run("outside", "outside")]);
  const makers: Record<ToggleName, () => Promise<ToggledPods>> = {
    client: async () => {
      const client = await run("client", "pod");
      const ways = [way("client > mesh", client, mesh), way("client > outside", client, outside)];
      return { name: "client", place: "pod", pods: [client.pod], ways };
    },
    server: async () => {
      const server = await run("server", "pod");
      const ways = [way("mesh > server", mesh, server), way("outside > server", outside, server)];
      return { name: "server", place: "pod", pods: [server.pod], ways };
    },
    namespace: async () => {
      const [client, server] = await Promise.all([
        run("all-client", "namespace"),
        run("all-server", "namespace"),
      ]);
      const ways = [way("namespace > namespace", client, server)];
      return { name: "namespace", place: "namespace", pods: [client.pod, server.pod], ways };
    },
  };
  const toggles = await Promise.all(wanted.map((name) => makers[name]()));
  const inMesh = [mesh.pod, ...toggles.flatMap(({ pods }) => pods)];
  await Promise.all(inMesh.map((pod) => untilSettled(world, pod, true)));
  return toggles;
}

/** Waits until a pod is in the mesh or out of it for everybody. */
export async function untilSettled(world: ToggleWorld, pod: Pod, isInMesh: boolean): Promise<void> {
  const what = `pod "${pod.spec.name}" to be ${isInMesh ? "in the mesh" : "out of the mesh"}`;
  await waitFor(what, () => world.isSettled(pod, isInMesh), { timeoutMs: 30_000, intervalMs: 50 });
}

function way(name: string, client: TrafficPod, server: TrafficPod): TrafficWay {
  return { name, client, server };
}
