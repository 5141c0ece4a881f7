// SPDX-License-Identifier: Apache-2.0
// What surge.test.ts does inside a node: an agent that is replaced by one that is ready before it ends (maxSurge).
import { watch } from "node:fs";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { claimCaptured, untilCaptured } from "../support/node/capture-state.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { ruleGeneration } from "../support/node/rule-generation.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const conflist = `${netDir}/10-net.conflist`;
const label = "istio.io/dataplane-mode";
const statusAnnotation = "ambient.istio.io/redirection";

await run(["mount", "-t", "tmpfs", "none", "/var/lib"]);
for (const dir of [binDir, netDir, "/var/lib/cni"]) await mkdir(dir, { recursive: true });
await writeFile(conflist, '{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}');
const mesh = await MeshNode.start({
  agentEnv: {
    LOG_LEVEL: "debug",
    INSTALL_CNI_PLUGIN: "true",
    MOUNTED_CNI_NET_DIR: netDir,
    MOUNTED_CNI_BIN_DIR: binDir,
  },
});
mesh.kubelet.createNamespace("mesh", { [label]: "ambient" });
let counter = 0;
let generation = 0;

/** Each agent has ports of its own, as in a container, and other settings than the one before. */
function newcomer(): Record<string, string> {
  generation++;
  return {
    HEALTH_PORT: String(8000 + generation),
    MONITORING_PORT: String(15100 + generation),
    EXCLUDE_NAMESPACES: `kube-system,of-version-${generation}`,
  };
}

/** What came of a replacement. */
export interface Replaced {
  /** Transactions in the rules of a pod at rest, from before the newcomer until after its forerunner's end. */
  readonly writes: number;
  /** How often the chain was written, by whomever, from the newcomer's start on. */
  readonly chainWrites: number;
  readonly isNewcomersEntry: boolean;
  readonly bin: readonly string[];
  readonly run: readonly string[];
}

/** @param signal that ends the old one @param flaps how often a pod's label goes and comes while there are two */
export async function replace(signal: "SIGTERM" | "SIGKILL", flaps: number): Promise<Replaced> {
  const old = await mesh.startAgent(newcomer());
  await mesh.startZtunnel({ maxBackoffMs: 100 });
  await mesh.ztunnel.waitForReady(20_000);
  const [still, flapping] = [await runPod(), await runPod()];
  for (const pod of [still, flapping]) await untilAnnounced(pod);
  const before = await ruleGeneration(still.netns);
  let chainWrites = 0;
  // as a runtime hears of it: each time another file takes its place
  using _watcher = closing(
    watch(netDir, (_, name) => {
      if (name === basename(conflist)) chainWrites++;
    }),
  );
  await mesh.startAgent(newcomer());
  // ztunnel is still the old one's: this ADD is answered once it has come to the new one
  const adding = runPod();
  for (let flap = 0; flap < flaps; flap++) {
    mesh.kubelet.labelPod(flapping, { [label]: "none" });
    await delay(150 + 400 * flap);
    mesh.kubelet.labelPod(flapping, { [label]: null });
    await delay(100 * flap);
  }
  // for so long there are two, which nothing tells them of
  await delay(1_000);
  if (signal === "SIGTERM") await old.stop(10_000);
  else await old.kill();
  const added = await adding;
  await claimCaptured(added);
  await mesh.ztunnel.waitForReady(20_000);
  for (const pod of [still, flapping, added]) {
    await untilCaptured(pod, { timeoutMs: 15_000 });
    await untilAnnounced(pod);
  }
  const plugins = (JSON.parse(await readFile(conflist, "utf8")) as { plugins: { exempt?: string[] }[] })
    .plugins;
  const replaced = {
    writes: (await ruleGeneration(still.netns)) - before,
    chainWrites,
    isNewcomersEntry: plugins.flatMap(({ exempt = [] }) => exempt).includes(`of-version-${generation}`),
    bin: (await readdir(binDir)).sort(),
    run: (await readdir("/var/run/istio-cni")).sort(),
  };
  for (const pod of [still, flapping, added]) await mesh.kubelet.deletePod(pod);
  await waitFor("ztunnel to have none", async () => {
    const { workloads } = await mesh.ztunnel.stats();
    return Object.keys(workloads).length === 0;
  });
  await waitFor("the sets to be empty", async () => !/^add /m.test((await run(["ipset", "save"])).stdout));
  await mesh.agent.stop();
  return replaced;
}

function closing(watcher: { close(): void }): Disposable {
  return { [Symbol.dispose]: () => watcher.close() };
}

const runPod = (): Promise<Pod> => mesh.kubelet.runPod({ namespace: "mesh", name: `web-${++counter}` });

const untilAnnounced = (pod: Pod): Promise<unknown> =>
  waitFor(
    `the annotation of ${pod.spec.name}`,
    () => mesh.kubelet.annotation(pod, statusAnnotation) === "enabled",
    { timeoutMs: 10_000 },
  );
