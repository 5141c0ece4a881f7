// SPDX-License-Identifier: Apache-2.0
// What crio-word.test.ts does inside a node: CRI-O tells of sandboxes that no ADD announces, to an agent whose entry is in another chain.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { RuntimeSandbox } from "../../src/nri/messages.ts";
import { CrioRuntime } from "../nri/crio-runtime.ts";
import {
  claimCaptured,
  claimUntouched,
  untilCaptured,
  untilUntouched,
} from "../support/node/capture-state.ts";
import { bridgeConflist } from "../support/node/conflist.ts";
import { requireNode } from "../support/node/inside.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type BareSandbox, endBareSandbox, makeBareSandbox, removeBareSandbox } from "./bare-sandbox.ts";

const { scratch } = requireNode();
const [netDir, binDir] = [join(scratch, "net.d"), join(scratch, "cni-bin")];
for (const folder of [netDir, binDir, "/var/run/nri"]) await mkdir(folder, { recursive: true });
// it has its own file: the sandboxes here are made without it, as by a network that CRI-O is told by another name
await writeFile(join(netDir, "10-other.conflist"), JSON.stringify(bridgeConflist({ leaseDir: scratch })));
const crio = await CrioRuntime.start("/var/run/nri/nri.sock");
const mesh = await MeshNode.start({
  agentEnv: {
    INSTALL_CNI_PLUGIN: "true",
    MOUNTED_CNI_NET_DIR: netDir,
    MOUNTED_CNI_BIN_DIR: binDir,
    POD_NAMESPACE: "istio-system",
  },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await startZtunnel();

async function startZtunnel(): Promise<void> {
  await mesh.startZtunnel({ maxBackoffMs: 50 });
  await mesh.ztunnel.waitForReady();
}

/** As CRI-O names it. */
function told({ sandbox, netns, result }: BareSandbox): RuntimeSandbox {
  const { id, uid, namespace, name } = sandbox;
  const ips = (result.ips ?? []).map(({ address }) => address.split("/")[0] as string);
  return { id, uid, namespace, name, netnsPath: netns, ips };
}

const named = ({ netns, sandbox }: BareSandbox) => ({ netns, spec: sandbox });

async function remove(bare: BareSandbox): Promise<void> {
  await removeBareSandbox(mesh, bare);
  await crio.stopPodSandbox(told(bare));
  await crio.removePodSandbox(told(bare));
}

/** From its beginning to its end. @param namespace of the pod */
export async function begun(namespace: "mesh" | "plain"): Promise<void> {
  const bare = await makeBareSandbox(mesh, namespace);
  await crio.runPodSandbox(told(bare));
  await (namespace === "mesh" ? claimCaptured : claimUntouched)(named(bare));
  await crio.createContainer(told(bare));
  await remove(bare);
}

/** One that neither RunPodSandbox nor Synchronize told of, when its first container is about to be made. */
export async function unseen(): Promise<void> {
  const bare = await makeBareSandbox(mesh, "mesh");
  crio.makeUnseen(told(bare));
  await claimUntouched(named(bare));
  await crio.createContainer(told(bare));
  await claimCaptured(named(bare));
  await remove(bare);
}

/** Without a ztunnel: what becomes of containers before and after a restart of the agent; "" is one that is made. */
export async function held(): Promise<{ readonly before: string; readonly after: readonly string[] }> {
  await mesh.ztunnel.stop();
  const bare = await makeBareSandbox(mesh, "mesh");
  const container = () =>
    crio.createContainer(told(bare)).then(
      () => "",
      ({ message }: Error) => message as string,
    );
  await crio.runPodSandbox(told(bare));
  const before = await container();
  await mesh.agent.kill();
  const registered = crio.nextRegistration();
  const isReady = mesh.startAgent();
  // it is asked from the moment on that it has registered, long before it is ready
  await registered;
  const after = [await container()];
  await isReady;
  after.push(await container());
  await startZtunnel();
  await untilCaptured(named(bare));
  after.push(await container());
  await remove(bare);
  return { before, after };
}

/** A captured pod gets its next container while a new agent has not heard of its ztunnel, which serves on. */
export async function nextContainer(): Promise<void> {
  const bare = await makeBareSandbox(mesh, "mesh");
  await crio.runPodSandbox(told(bare));
  await crio.createContainer(told(bare));
  await waitFor("the annotation", () => isAnnounced(bare));
  process.kill(mesh.ztunnel.pid, "SIGSTOP");
  try {
    await mesh.agent.kill();
    await mesh.startAgent();
    await crio.createContainer(told(bare));
  } finally {
    process.kill(mesh.ztunnel.pid, "SIGCONT");
  }
  await mesh.ztunnel.waitForReady();
  await claimCaptured(named(bare));
  await remove(bare);
}

function isAnnounced({ sandbox }: BareSandbox): boolean {
  const { metadata } = mesh.api.store.get("pods", sandbox.name, sandbox.namespace);
  return metadata.annotations?.["ambient.istio.io/redirection"] === "enabled";
}

/** A pod has a new sandbox while the stopped one is still listed, and an agent comes that knows neither. */
export async function renewed(): Promise<void> {
  const old = await makeBareSandbox(mesh, "mesh");
  await crio.runPodSandbox(told(old));
  await endBareSandbox(mesh, old);
  await crio.stopPodSandbox(told(old));
  await mesh.agent.kill();
  const bare = await makeBareSandbox(mesh, "mesh", old);
  await crio.runPodSandbox(told(bare));
  await claimUntouched(named(bare));
  await mesh.startAgent();
  await mesh.ztunnel.waitForReady();
  await untilCaptured(named(bare));
  await crio.removePodSandbox(told(old));
  await crio.createContainer(told(bare));
  await claimCaptured(named(bare));
  await crio.stopPodSandbox(told(bare));
  await untilUntouched(named(bare));
  await remove(bare);
}

/** The agent's last lines, for a failure that needs them. */
export function logs(): string {
  return mesh.agent.lines
    .slice(-15)
    .map(({ text }) => text.slice(0, 500))
    .join("\n");
}
