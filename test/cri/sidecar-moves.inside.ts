// SPDX-License-Identifier: Apache-2.0
// What sidecar-moves.test.ts does inside a node: a workload that is moved from its sidecar to ambient mode and back, as people migrate, while
// a client asks it without a pause.
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ManagedProcess } from "../support/node/managed-process.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { appPort, appUrl, CriNode, type CriPod, meshNamespace, plainNamespace } from "./support/cri-node.ts";
import type { Asked } from "./support/endpoint-client.ts";
import { waitForNothing } from "./support/holdings.ts";
import { SidecarPods } from "./support/sidecar-pods.ts";

/** How a pod is in the mesh. */
type Kind = "sidecar" | "ambient";

/** What one of the pods was asked by the client while it served. */
export interface Served {
  readonly kind: Kind;
  /** Pages that the client got from it. */
  readonly answered: number;
  /** Requests that its application answered. */
  readonly byApp: number;
  /** Connections that its proxy, or ztunnel's plain port in it, took. */
  readonly byProxy: number;
  /** Whom the application saw: the passthrough address of a sidecar, the client, or somebody else's address. */
  readonly peers: readonly string[];
  /** Whether ztunnel held the pod. */
  readonly isHeld: boolean;
}

/** The whole move. */
export interface MoveReport {
  readonly served: readonly Served[];
  /** All that the client asked. */
  readonly asked: number;
  /** From the deletion of a pod until the next one was ready, in ms; one for each restart. */
  readonly restartMs: readonly number[];
  /** Failures by what went wrong, of requests within a restart, and of all others. */
  readonly failedInRestart: Readonly<Record<string, number>>;
  readonly failedElsewhere: Readonly<Record<string, number>>;
}

interface Restart {
  readonly beganMs: number;
  readonly endedMs: number;
}

const pauseMs = 5;
const patience = { timeoutMs: 15_000, intervalMs: 10 };
/** Source: istio/istio pilot, the inbound passthrough cluster. */
const passthrough = "127.0.0.6";

let node: CriNode;
let pods: SidecarPods;

export async function start(): Promise<void> {
  node = await CriNode.start();
  pods = await SidecarPods.on(node);
  await node.startMesh();
}

/** Runs one pod after the other in a namespace of the ambient mesh. @param answers that the client gets of each at least */
export async function move(kinds: readonly Kind[], { answers }: { answers: number }): Promise<MoveReport> {
  const endpoint = new Endpoint(join(node.node.scratch, "endpoint"));
  await endpoint.set(undefined);
  const clientPod = await node.runPod(node.createPod(plainNamespace));
  const client = new Client(clientPod, endpoint.path);
  const served: Served[] = [];
  const restarts: Restart[] = [];
  let beganMs: number | undefined;
  for (const kind of kinds) {
    const pod = await runPod(kind);
    // of the kubelet's probes
    const before = await countsOf(pod, kind);
    await endpoint.set(pod);
    if (beganMs !== undefined) restarts.push({ beganMs, endedMs: Date.now() });
    await client.until(`${answers} answers`, () => client.answersOf(pod) >= answers, patience);
    const isHeld = pod.spec.uid in (await node.ztunnel.stats()).workloads;
    // who is being deleted is no endpoint any more; nothing is under way once the client has seen that
    const goneMs = Date.now();
    await endpoint.set(undefined);
    await client.until("to hear of it", () => client.asked.some((each) => each.beganMs > goneMs));
    const answered = client.answersOf(pod);
    served.push({ kind, isHeld, answered, ...(await settledCounts(pod, kind, { before, answered })) });
    await node.deletePod(pod);
    beganMs = goneMs;
  }
  await client.stop();
  await node.deletePod(clientPod);
  await waitForNothing(node);
  // before the first and after the last pod there is nobody to be asked
  const answeredMs = client.asked.filter(({ page }) => page !== undefined).map((each) => each.beganMs);
  const asked = client.asked.filter(
    (each) => each.beganMs >= Math.min(...answeredMs) && each.beganMs <= Math.max(...answeredMs),
  );
  const failed = asked.filter(({ page }) => page === undefined);
  const isInRestart = ({ beganMs, endedMs }: Asked): boolean =>
    restarts.some((restart) => restart.beganMs <= endedMs && beganMs <= restart.endedMs);
  return {
    served: served.map((each) => ({
      ...each,
      peers: each.peers.map((peer) =>
        peer === passthrough ? "its sidecar" : clientPod.ips.includes(peer) ? "the client" : peer,
      ),
    })),
    asked: asked.length,
    restartMs: restarts.map(({ beganMs, endedMs }) => endedMs - beganMs),
    failedInRestart: countedBy(failed.filter(isInRestart)),
    failedElsewhere: countedBy(failed.filter((each) => !isInRestart(each))),
  };
}

/** A pod that serves. */
async function runPod(kind: Kind): Promise<CriPod> {
  if (kind === "sidecar") return await pods.run(pods.create(meshNamespace));
  const pod = await node.runPod(node.createPod(meshNamespace));
  await node.startApp(pod);
  await waitFor(`the server of ${pod.spec.name}`, async () => (await fetch(appUrl(pod))).ok, patience);
  return pod;
}

/** The counts once the runtime has written down what the containers printed; where that never fits, as they are. */
async function settledCounts(
  pod: CriPod,
  kind: Kind,
  { before, answered }: { readonly before: Counts; readonly answered: number },
): Promise<Counts> {
  const isWritten = async (): Promise<boolean> => {
    const { byApp, byProxy } = await countsOf(pod, kind, before);
    return byApp >= answered && byProxy >= answered;
  };
  await waitFor("the logs", isWritten).catch(() => {});
  return await countsOf(pod, kind, before);
}

type Counts = Pick<Served, "byApp" | "byProxy" | "peers">;

/** What application and proxy have seen. @param before is taken off */
async function countsOf(pod: CriPod, kind: Kind, before?: Counts): Promise<Counts> {
  const log = await readFile(node.logOf(pod), "utf8");
  const peers = [...log.matchAll(/ (\S+):\d+: response:200$/gm)].map(([, peer = ""]) =>
    peer.replace(/^\[?(?:::ffff:)?(.*?)\]?$/, "$1"),
  );
  const byProxy = await (kind === "sidecar" ? byProxyOf(pod) : byZtunnelOf(pod));
  const since = peers.slice(before?.byApp ?? 0);
  return { byApp: since.length, byProxy: byProxy - (before?.byProxy ?? 0), peers: [...new Set(since)] };
}

async function byProxyOf(pod: CriPod): Promise<number> {
  return (await pods.ledToProxy(pod)).filter((line) => line === `inbound ${pod.ips[0]}:${appPort}`).length;
}

async function byZtunnelOf({ spec }: CriPod): Promise<number> {
  return (await node.ztunnel.stats()).workloads[spec.uid]?.ports["15006"]?.connections ?? 0;
}

function countedBy(failed: readonly Asked[]): Record<string, number> {
  const groups = Map.groupBy(failed, ({ failure }) => failure ?? "");
  return Object.fromEntries([...groups].map(([failure, all]) => [failure, all.length]));
}

/** A file that says who serves, written whole. */
class Endpoint {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  async set(pod: CriPod | undefined): Promise<void> {
    await writeFile(`${this.path}.new`, pod === undefined ? "" : appUrl(pod));
    await rename(`${this.path}.new`, this.path);
  }
}

/** The client, in a pod of no mesh. */
class Client extends ManagedProcess {
  constructor({ netns }: CriPod, endpointPath: string) {
    const script = join(import.meta.dirname, "support/endpoint-client.ts");
    const client = [process.execPath, script, endpointPath, String(pauseMs)];
    super(["nsenter", `--net=${netns}`, "--", ...client], { name: "client" });
  }

  get asked(): Asked[] {
    return this.lines.flatMap(({ json }) => (json === undefined ? [] : [json as unknown as Asked]));
  }

  answersOf({ spec }: CriPod): number {
    return this.asked.filter(({ page }) => page === spec.name).length;
  }
}

/** The last lines of the node's processes, for a failure that needs them. */
export function logs(): string {
  const lines = [node?.agent, node?.containerd.process].flatMap((each) => each?.lines.slice(-15) ?? []);
  return lines.map(({ text }) => text.slice(0, 500)).join("\n");
}
