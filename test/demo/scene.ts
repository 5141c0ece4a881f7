// SPDX-License-Identifier: Apache-2.0
// Who plays in the demo: a node in the mesh, a client pod and a server pod, and the questions that several steps ask.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DASHBOARD_PORT } from "../../src/cli/dashboard-command.ts";
import { claim } from "../support/node/claim.ts";
import type { Conflist } from "../support/node/conflist.ts";
import { DashboardProcess } from "../support/node/dashboard-process.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { appPort, type RunningPod } from "./proxied-request.ts";

/** Port of the echo server in each pod. */
export const echoPort = 7070;
/** The label that puts a namespace or a pod into the mesh, or keeps a pod out. */
export const modeLabel = "istio.io/dataplane-mode";
/** The name that ztunnel knows, and its address. */
export const knownName = { name: "reviews.shop.demo", address: "203.0.113.7" } as const;
/** How ztunnel is started, the first time and after a restart. */
export const ztunnelOptions = { dns: [`${knownName.name}=${knownName.address}`] } as const;

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const conflist = join(netDir, "10-podnet.conflist");
const statusAnnotation = "ambient.istio.io/redirection";

/** The stage of the demo. */
export class Scene {
  readonly mesh: MeshNode;
  readonly client: RunningPod;
  readonly server: RunningPod;

  readonly dashboard: DashboardProcess;

  private constructor(
    mesh: MeshNode,
    pods: { client: RunningPod; server: RunningPod },
    dashboard: DashboardProcess,
  ) {
    this.mesh = mesh;
    this.dashboard = dashboard;
    this.client = pods.client;
    this.server = pods.server;
  }

  /** Starts a node with agent (and its further settings), ztunnel, dashboard and two pods of a namespace that is not in the mesh. */
  static async begin(agentEnv: Readonly<Record<string, string>> = {}): Promise<Scene> {
    const mesh = await MeshNode.start({
      agentEnv: {
        INSTALL_CNI_PLUGIN: "true",
        MOUNTED_CNI_NET_DIR: netDir,
        MOUNTED_CNI_BIN_DIR: binDir,
        ...agentEnv,
      },
    });
    await Promise.all([netDir, binDir].map((folder) => mkdir(folder, { recursive: true })));
    await writeFile(conflist, JSON.stringify(mesh.plainPods.network, undefined, 2));
    mesh.kubelet.createNamespace("shop");
    // without HBONE at first, so that the rule to 15006 is seen to work between the two pods; the next ztunnel has it
    await Promise.all([mesh.startAgent(), mesh.startZtunnel({ ...ztunnelOptions, hbone: false })]);
    const [dashboard] = await Promise.all([
      DashboardProcess.start(DASHBOARD_PORT),
      mesh.ztunnel.waitForReady(),
    ]);
    await takeChain(mesh);
    const [client, server] = await Promise.all([runPod(mesh, "client"), runPod(mesh, "server")]);
    return new Scene(mesh, { client, server }, dashboard);
  }

  /** The two pods in words. */
  describe(): string {
    const [client, server] = [this.client.pod, this.server.pod];
    const pods = `pods client ${client.ips.join(" ")} and server ${server.ips.join(" ")}`;
    return `${pods}; the agent's entry is the last of their CNI chain`;
  }

  /** Requests between the pods reach the server unproxied, over both families. */
  async claimDirect(): Promise<void> {
    const before = JSON.stringify((await this.mesh.ztunnel.stats()).workloads);
    for (const family of [4, 6]) {
      const own = family === 4 ? this.client.pod.ip4 : this.client.pod.ip6;
      const host = family === 4 ? this.server.pod.ip4 : this.server.pod.ip6;
      const answer = await this.client.app.call.get({ host, port: appPort, body: "direct" });
      claim(answer.peer.address === own, `the server saw ${answer.peer.address}, the client is ${own}`);
      // a proxy would have a port of its own towards the server
      claim(answer.peer.port === answer.own.port, "somebody stood between client and server");
    }
    const after = JSON.stringify((await this.mesh.ztunnel.stats()).workloads);
    claim(before === after, "ztunnel counted traffic of pods outside the mesh");
  }

  /** The pods that ztunnel has. */
  async heldUids(): Promise<string[]> {
    return Object.keys((await this.mesh.ztunnel.stats()).workloads);
  }

  /** Waits until ztunnel has these pods. */
  async untilHeld(pods: readonly Pod[]): Promise<void> {
    const all = (uids: readonly string[]): boolean => pods.every((pod) => uids.includes(pod.uid));
    await waitFor("ztunnel to have the pods", async () => all(await this.heldUids()), { timeoutMs: 10_000 });
  }

  /** Waits until the annotation that says whether a pod is captured has this value. */
  async untilStatus(pod: Pod, value: string | undefined): Promise<void> {
    const what = `the status of "${pod.spec.name}" to be ${value ?? "absent"}`;
    await waitFor(what, () => this.mesh.kubelet.annotation(pod, statusAnnotation) === value);
  }

  /** Waits until that many more requests have reached the server's app. */
  async untilServed(more: number): Promise<void> {
    const before = await this.server.app.call.seenCount();
    const served = async (): Promise<boolean> => (await this.server.app.call.seenCount()) >= before + more;
    await waitFor(`${more} more requests to be served`, served, { timeoutMs: 20_000 });
  }

  /** The namespaces of client and server. */
  async netnsInodes(): Promise<string> {
    return `${await this.client.pod.netnsInode()} ${await this.server.pod.netnsInode()}`;
  }
}

/** From here on the runtime makes pods with the chain that the agent has written. */
async function takeChain(mesh: MeshNode): Promise<void> {
  const chain = JSON.parse(await readFile(conflist, "utf8")) as Conflist;
  claim(
    chain.plugins.at(-1)?.type === "ambient-cni",
    `the agent is not the last in ${JSON.stringify(chain)}`,
  );
  Object.assign(mesh.pods.network, chain);
}

/** Runs a pod with its servers in the namespace of the demo. */
export async function runPod(
  mesh: MeshNode,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<RunningPod> {
  const pod = await mesh.kubelet.runPod({ namespace: "shop", name, labels: { app: name, ...labels } });
  const app = await pod.startApp();
  await app.call.serveHttp(appPort);
  await app.call.serveEcho(echoPort);
  return { pod, app };
}
