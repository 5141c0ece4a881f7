// SPDX-License-Identifier: Apache-2.0
// What podman.runtime.ts does inside a node: podman runs containers on a chain that ends with our launcher.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { copyFile, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { makeNodePlaces } from "../cluster/support/node-places.ts";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { ambientPlugin, bridgeConflist } from "../support/node/conflist.ts";
import { MeshNode, PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const mesh = await MeshNode.start();
const { scratch, cgroupFolder } = mesh.node;
await makeNodePlaces(scratch);
const place = (name: string): string => join(scratch, "podman", name);
const calls = place("calls");
const rootfs = place("rootfs");
await makePodman();
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 50 });
await mesh.ztunnel.waitForReady();
let counter = 0;

/** A call of our plugin. */
export interface PluginCall {
  readonly verb: string;
  /** Addresses in the result that came along. */
  readonly ips: number;
}

/** A pod of the mesh runs and ends. */
export async function meshPod(): Promise<PluginCall[]> {
  const from = (await pluginCalls()).length;
  const pod = await runPod();
  await claimCaptured(pod);
  await removePod(pod);
  return (await pluginCalls()).slice(from);
}

/** `podman network reload` of a running pod. Returns all verbs of its life. */
export async function reload(): Promise<string[]> {
  const from = (await pluginCalls()).length;
  const pod = await runPod();
  await podman(["network", "reload", pod.spec.name], pod.spec);
  await claimCaptured(pod);
  await removePod(pod);
  return (await pluginCalls()).slice(from).map(({ verb }) => verb);
}

/** A container whose CNI_ARGS name no namespace, as podman's do by themselves. */
export async function noPod(): Promise<void> {
  const name = "somebody";
  await podman(runArgs(name));
  await claimUntouched({ netns: await netnsOf(name), spec: { name } });
  await podman(["rm", "--force", "--time", "0", name]);
  assert.deepEqual(await held(), []);
}

/** The agent is killed. Returns what podman said of a pod of the mesh. */
export async function away(): Promise<string> {
  const pod = await runPod();
  await mesh.agent.kill();
  await podman(["rm", "--force", "--time", "0", pod.spec.name]);
  const spec = createPod();
  const { code, stderr } = await run(["podman", ...runArgs(spec.name)], {
    env: env(spec),
    timeoutMs: 60_000,
    mayFail: true,
  });
  assert.notEqual(code, 0, "a pod of the mesh has started without the agent");
  await podman(["rm", "--force", "--time", "0", spec.name]);
  for (const { name } of [spec, pod.spec]) mesh.api.delete("pods", name, "mesh");
  await mesh.startAgent();
  await waitFor("nothing to be held", async () => (await held()).length === 0);
  return stderr;
}

interface PodName {
  readonly name: string;
  readonly uid: string;
}

interface PodmanPod {
  readonly spec: PodName;
  readonly netns: string;
}

function createPod(): PodName {
  counter += 1;
  const spec = { name: `pod-${counter}`, uid: randomUUID() };
  mesh.api.put("pods", {
    metadata: { ...spec, namespace: "mesh" },
    spec: { nodeName: "node-1", serviceAccountName: "default", containers: [{ name: "app", image: "app" }] },
    status: { phase: "Pending" },
  });
  return spec;
}

async function runPod(): Promise<PodmanPod> {
  const spec = createPod();
  await podman(runArgs(spec.name), spec);
  return { spec, netns: await netnsOf(spec.name) };
}

async function removePod({ spec: { name } }: PodmanPod): Promise<void> {
  await podman(["rm", "--force", "--time", "0", name]);
  mesh.api.delete("pods", name, "mesh");
  await waitFor("ztunnel to drop it", async () => (await held()).length === 0);
}

async function held(): Promise<string[]> {
  const { workloads, pending } = await mesh.ztunnel.stats();
  return [...Object.keys(workloads), ...pending];
}

async function netnsOf(name: string): Promise<string> {
  return (await podman(["inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name])).trim();
}

/** Nothing of the container needs more than this machine's root may have. */
function runArgs(name: string): string[] {
  const parent = `/${basename(cgroupFolder)}/podman`;
  const limits = ["--security-opt", "seccomp=unconfined", "--oom-score-adj", "0", "--cgroup-parent", parent];
  return [
    "run",
    "--detach",
    "--name",
    name,
    "--network",
    "podnet",
    ...limits,
    "--rootfs",
    rootfs,
    "/bin/sleep",
    "1000",
  ];
}

async function podman(args: readonly string[], pod?: PodName): Promise<string> {
  return (await run(["podman", ...args], { env: env(pod), timeoutMs: 60_000 })).stdout;
}

/** podman adds these arguments to its own. Source: containers/common libnetwork/cni/run.go, getRuntimeConfig. */
function env(pod?: PodName): Record<string, string> {
  return cleanEnv({
    CONTAINERS_CONF: place("containers.conf"),
    CONTAINERS_STORAGE_CONF: place("storage.conf"),
    TMPDIR: place("tmp"),
    ...(pod === undefined ? {} : { CNI_ARGS: `K8S_POD_NAMESPACE=mesh;K8S_POD_UID=${pod.uid}` }),
  });
}

async function pluginCalls(): Promise<PluginCall[]> {
  const lines = (await readFile(calls, "utf8")).split("\n").filter(Boolean);
  return lines.map((line) => {
    const [verb = ""] = line.split(" ", 1);
    const { prevResult } = JSON.parse(line.slice(verb.length)) as { prevResult?: { ips?: unknown[] } };
    return { verb, ips: prevResult?.ips?.length ?? 0 };
  });
}

/** Source: containers.conf(5), containers-storage.conf(5). */
async function makePodman(): Promise<void> {
  for (const name of ["net.d", "plugins", "tmp", "rootfs/bin"]) await mkdir(place(name), { recursive: true });
  await copyFile("/bin/busybox", join(rootfs, "bin/busybox"));
  await symlink("busybox", join(rootfs, "bin/sleep"));
  const launcher = `#!/bin/sh\ninput=$(cat)\necho "$CNI_COMMAND $input" >>${calls}\necho "$input" | exec ${join(PLUGIN_DIR, "ambient-cni")}\n`;
  await writeFile(join(place("plugins"), "ambient-cni"), launcher, { mode: 0o755 });
  await writeFile(calls, "");
  const chained = [ambientPlugin({ agentWaitSeconds: 2 })];
  const conflist = bridgeConflist({ leaseDir: join(scratch, "ipam"), chained });
  await writeFile(join(place("net.d"), "10-podnet.conflist"), JSON.stringify(conflist));
  const config = `[network]
network_backend = "cni"
cni_plugin_dirs = ["${place("plugins")}", "/usr/lib/cni"]
network_config_dir = "${place("net.d")}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
tmp_dir = "${place("libpod")}"
static_dir = "${place("static")}"
volume_path = "${place("volumes")}"
`;
  await writeFile(place("containers.conf"), config);
  const storage = `[storage]\ndriver = "vfs"\ngraphroot = "${place("storage")}"\nrunroot = "${place("run")}"\n`;
  await writeFile(place("storage.conf"), storage);
}

/** The agent's last lines, for a failure that needs them. */
export function logs(): string {
  return mesh.agent.lines
    .slice(-15)
    .map(({ text }) => text.slice(0, 500))
    .join("\n");
}
