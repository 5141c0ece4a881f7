// SPDX-License-Identifier: Apache-2.0
// What install.test.ts does inside a node: agents that put themselves into the chain, stop, and leave.
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { get } from "node:http";
import { join } from "node:path";
import { claimCaptured } from "../support/node/capture-state.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { MeshNode, PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const runDir = "/var/run/istio-cni";
const conflist = join(netDir, "10-net.conflist");
const launcher = join(binDir, "ambient-cni");
const original = `{
  "cniVersion": "1.0.0",
  "name": "net",
  "plugins": [
    { "type": "bridge" }
  ]
}
`;
const namespace = "istio-system";
const podName = "ambient-cni-node-x7k2p";
const daemonSet = "ambient-cni-node";

const mesh = await MeshNode.start({
  agentEnv: {
    INSTALL_CNI_PLUGIN: "true",
    MOUNTED_CNI_NET_DIR: netDir,
    MOUNTED_CNI_BIN_DIR: binDir,
    POD_NAMESPACE: namespace,
    POD_NAME: podName,
    EXCLUDE_NAMESPACES: "kube-system",
  },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.api.put("pods", {
  metadata: {
    name: podName,
    namespace,
    uid: "uid-agent",
    ownerReferences: [
      { apiVersion: "apps/v1", kind: "DaemonSet", name: daemonSet, uid: "uid-ds", controller: true },
    ],
  },
  spec: { nodeName: "node-1" },
} as Parameters<typeof mesh.api.put>[1]);
mesh.api.put("daemonsets", { metadata: { name: daemonSet, namespace, uid: "uid-ds" } });
await mesh.startZtunnel();

function readiness(): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ host: "127.0.0.1", port: 8000, path: "/readyz", agent: false }, (response) => {
      let text = "";
      response.on("data", (part: Buffer) => {
        text += part.toString();
      });
      response.on("end", () => resolve(text));
    }).on("error", reject);
  });
}

async function untilReadiness(pattern: RegExp): Promise<string> {
  let text = "";
  const matches = async (): Promise<boolean> => {
    text = await readiness().catch((error: Error) => error.message);
    return pattern.test(text);
  };
  await waitFor(`readiness to match ${pattern}`, matches, { timeoutMs: 15_000 }).catch((error: Error) => {
    throw new Error(`${error.message}; it is: ${text}`);
  });
  return text;
}

/** The entry in the chain. @returns all plugins' types and our entry */
async function chain(): Promise<{ types: string[]; entry: unknown }> {
  const { plugins } = JSON.parse(await readFile(conflist, "utf8")) as { plugins: { type: string }[] };
  return {
    types: plugins.map(({ type }) => type),
    entry: plugins.find(({ type }) => type === "ambient-cni"),
  };
}

/** What an agent waits for on a node that has nothing yet, and how it ends up. */
export async function bareNode(): Promise<{
  reasons: string[];
  types: string[];
  entry: unknown;
  sameLauncher: boolean;
}> {
  const starting = mesh.startAgent();
  // a wait below says more about what is missing
  starting.catch(() => {});
  const reasons = [await untilReadiness(/install: Cannot/)];
  await mkdir(binDir, { recursive: true });
  await mkdir(netDir, { recursive: true });
  reasons.push(await untilReadiness(/Waiting for a CNI configuration/));
  await writeFile(conflist, original);
  await starting;
  const installed = await readFile(launcher);
  return {
    reasons,
    ...(await chain()),
    sameLauncher: installed.equals(await readFile(join(PLUGIN_DIR, "ambient-cni"))),
  };
}

/** Somebody deletes the launcher and rewrites the chain; both are back. @returns milliseconds until the chain was */
export async function damage(): Promise<number> {
  await rm(launcher);
  const began = performance.now();
  await writeFile(conflist, original);
  await waitFor("our entry", async () => (await chain()).types.includes("ambient-cni"), { intervalMs: 5 });
  const ms = performance.now() - began;
  await waitFor("the launcher", async () => (await readdir(binDir)).includes("ambient-cni"), {
    timeoutMs: 10_000,
  });
  return ms;
}

/** A stop, and an API server that does not answer, leave the node as it is. */
export async function stopAndStay(): Promise<{ types: string[]; files: string[]; code: number }[]> {
  const looks = [];
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "stays" });
  for (const isAway of [false, true]) {
    if (isAway) await mesh.api.refuse();
    const code = await mesh.agent.stop(10_000);
    await claimCaptured(pod);
    looks.push({ types: (await chain()).types, files: await readdir(binDir), code });
    if (isAway) await mesh.api.listenAgain();
    await mesh.startAgent();
  }
  // the loopback plugin is the first to undo its work: a snapshot sent just then names a pod whose "lo" is down, which the
  // stand-in does not survive
  await mesh.ztunnel.waitForReady();
  await mesh.kubelet.deletePod(pod);
  return looks;
}

/** What the command does beside a running agent. */
export async function uninstallBesideAgent(): Promise<{ code: number; stdout: string; types: string[] }> {
  const { code, stdout } = await uninstall([]);
  return { code, stdout, types: (await chain()).types };
}

function uninstall(args: readonly string[]): ReturnType<typeof run> {
  const bundle = join(import.meta.dirname, "../../dist/ambient-cni.js");
  const env = {
    PATH: process.env.PATH ?? "",
    HOST_ROOT: "/",
    MOUNTED_CNI_NET_DIR: netDir,
    MOUNTED_CNI_BIN_DIR: binDir,
  };
  return run([process.execPath, bundle, "uninstall", ...args], { env, mayFail: true });
}

/** The DaemonSet is deleted while pods run, then the agent is told to stop. */
export async function leave(): Promise<Record<string, unknown>> {
  const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "left" });
  await claimCaptured(pod);
  mesh.api.delete("daemonsets", daemonSet, namespace);
  const code = await mesh.agent.stop(30_000);
  await claimCaptured(pod);
  const annotation = mesh.api.store.find("pods", "left", "mesh")?.metadata.annotations?.[
    "ambient.istio.io/redirection"
  ];
  const looks = {
    code,
    annotation: annotation ?? "none",
    conflist: (await readFile(conflist, "utf8")) === original,
    bin: await readdir(binDir),
    net: await readdir(netDir),
    run: await readdir(runDir),
    sets: (await run(["ipset", "list", "-name"])).stdout,
    rules: (await iptablesSave("/proc/self/ns/net", 4)).split("\n").filter((line) => line.includes("ISTIO")),
  };
  const again = await uninstall([]);
  await mesh.kubelet.deletePod(pod);
  return { ...looks, again: again.code };
}
