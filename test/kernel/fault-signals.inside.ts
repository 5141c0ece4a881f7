// SPDX-License-Identifier: Apache-2.0
// What fault-signals.test.ts does inside a node: hurts it in each way and looks at what an operator would see.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type PluginLink, ScriptedRuntime } from "../nri/scripted-runtime.ts";
import { brokenPod } from "../repair/broken-pod.ts";
import { AGENT_BUNDLE } from "../support/node/agent-process.ts";
import { CniRuntime } from "../support/node/cni-runtime.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode, PLUGIN_DIR } from "../support/node/mesh-node.ts";
import { Pod, PodRuntime } from "../support/node/pod.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type FaultName, faultSignals, type Signal, type SignalPlace } from "./fault-signals.ts";

const namespace = "istio-system";
const podName = "ambient-cni-node-x7k2p";
const daemonSet = "ambient-cni-node";
const modeLabel = "istio.io/dataplane-mode";
const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const conflist = join(netDir, "10-podnet.conflist");
const settings = {
  INSTALL_CNI_PLUGIN: "true",
  MOUNTED_CNI_NET_DIR: netDir,
  MOUNTED_CNI_BIN_DIR: binDir,
  POD_NAMESPACE: namespace,
  POD_NAME: podName,
  RECONCILE_INTERVAL_SECONDS: "1",
  ZTUNNEL_WAIT_SECONDS: "1",
  REPAIR_ENABLED: "true",
  REPAIR_LABEL_PODS: "true",
  NRI_SOCKET_PATH: "/run/node/nri.sock",
};
/** Greets whoever connects. */
const containerRuntime = await ScriptedRuntime.start(settings.NRI_SOCKET_PATH);
let lastPlugin: PluginLink | undefined;
void greetPlugins();

async function greetPlugins(): Promise<never> {
  for (let nth = 0; ; nth += 1) {
    const link = await containerRuntime.plugin(nth);
    // one that has gone away meanwhile is not waited for
    void link.greet().then(() => {
      lastPlugin = link;
    });
  }
}

const mesh = await MeshNode.start({ plugin: { agentWaitSeconds: 1 }, agentEnv: settings });
const primary = JSON.stringify(mesh.plainPods.network, undefined, 2);
for (const folder of [binDir, netDir]) await mkdir(folder, { recursive: true });
await writeFile(conflist, primary);
const owner = { apiVersion: "apps/v1", kind: "DaemonSet", name: daemonSet, uid: "uid-ds", controller: true };
mesh.api.put("daemonsets", { metadata: { name: daemonSet, namespace, uid: owner.uid } });
mesh.api.put("pods", {
  metadata: { name: podName, namespace, uid: "uid-agent", ownerReferences: [owner] },
  spec: { nodeName: "node-1" },
} as Parameters<typeof mesh.api.put>[1]);
mesh.kubelet.createNamespace("mesh", { [modeLabel]: "ambient" });
mesh.kubelet.createNamespace("plain");
mesh.kubelet.createNamespace(namespace);
await Promise.all([mesh.startAgent(), startZtunnel()]);
const web = await mesh.kubelet.runPod({ namespace: "mesh", name: "web" });

async function startZtunnel(): Promise<void> {
  await mesh.startZtunnel({ allow: ["lo-down"] });
  await mesh.ztunnel.waitForReady();
}

let count = 0;
/** The runtime's words when a pod of the mesh cannot be made: kubelet repeats them in an Event. */
let lastAdd = "";

/** A runtime that kills a plugin as containerd does for a kubelet that has given up. */
const impatient = new Kubelet({
  api: mesh.api,
  runtime: new PodRuntime({
    cni: new CniRuntime({ binDirs: ["/usr/lib/cni", PLUGIN_DIR], pluginTimeoutMs: 1_500 }),
    network: mesh.pods.network,
    cgroupFolder: mesh.node.cgroupFolder,
  }),
  nodeName: "node-1",
});

/** A runtime whose chain has no entry of ours. */
const unplugged = new Kubelet({ api: mesh.api, runtime: mesh.plainPods, nodeName: "node-1" });

async function runInMesh(kubelet = mesh.kubelet): Promise<void> {
  count += 1;
  const pod = await kubelet.runPod({ namespace: "mesh", name: `held-${count}` }).catch((error: Error) => {
    lastAdd = error.message;
    return undefined;
  });
  if (pod !== undefined) await mesh.kubelet.deletePod(pod);
  else mesh.api.delete("pods", `held-${count}`, "mesh");
}

/** A running pod that the label is to bring in. */
async function labelPlain(prepare: (pod: Pod) => Promise<unknown> = async () => {}): Promise<Pod> {
  count += 1;
  const pod = await mesh.kubelet.runPod({ namespace: "plain", name: `joining-${count}` });
  await prepare(pod);
  mesh.kubelet.labelPod(pod, { [modeLabel]: "ambient" });
  return pod;
}

/** A rule under which connections to the API server stay open, and nothing gets through. */
const apiPackets = ["INPUT", "-p", "tcp", "--dport", new URL(mesh.api.url).port, "-j", "DROP"];

/** How a fault is made, and how it is taken back. */
interface Injection {
  /** @returns the pod that is hurt, to be deleted at the end */
  readonly hurt: () => Promise<unknown>;
  readonly heal?: () => Promise<unknown>;
}

const injections: Readonly<Record<FaultName, Injection>> = {
  "API server away": { hurt: () => mesh.api.refuse(), heal: () => mesh.api.listenAgain() },
  "API server silent": {
    hurt: () => run(["iptables", "-I", ...apiPackets]),
    heal: async () => {
      await run(["iptables", "-D", ...apiPackets]);
      mesh.api.dropWatches();
    },
  },
  "runtime cuts the agent off": { hurt: async () => lastPlugin?.socket.destroy() },
  "annotation refused": {
    hurt: async () => {
      mesh.api.faults.failures.push({
        status: 422,
        verb: "patch",
        resource: "pods",
        message: "denied by policy",
      });
      return await labelPlain();
    },
    heal: async () => void mesh.api.faults.failures.splice(0),
  },
  "watch cut": { hurt: async () => mesh.api.dropWatches() },
  "history forgotten": {
    hurt: async () => {
      // the pods' watch, the namespaces', and the repair's
      mesh.api.faults.goneOnWatch = 3;
      mesh.api.endWatches();
    },
  },
  "token refused": {
    hurt: async () => {
      mesh.api.tokens = ["the next one"];
      mesh.api.dropWatches();
    },
    heal: async () => {
      mesh.api.tokens = undefined;
    },
  },
  "pod made without API server": {
    hurt: async () => {
      await mesh.api.refuse();
      await runInMesh();
    },
    heal: () => mesh.api.listenAgain(),
  },
  "sidecar pod made without rules": {
    hurt: async () => {
      count += 1;
      const name = `broken-${count}`;
      const pod = await unplugged.runPod({ namespace: "plain", name, ...injectedPod() });
      mesh.api.edit("pods", { namespace: "plain", name }, (object) => {
        object.status = { ...object.status, ...(brokenPod(name).status as object) };
      });
      return pod;
    },
  },
  "ztunnel gone": { hurt: () => mesh.ztunnel.kill(), heal: startZtunnel },
  "ztunnel replaced": {
    hurt: async () => {
      const old = mesh.ztunnel;
      await startZtunnel();
      await old.stop();
    },
  },
  "pod made without ztunnel": {
    hurt: async () => {
      await mesh.ztunnel.kill();
      await runInMesh();
    },
    heal: startZtunnel,
  },
  "pod labelled without ztunnel": {
    hurt: async () => {
      await mesh.ztunnel.kill();
      return labelPlain();
    },
    heal: startZtunnel,
  },
  "ztunnel refuses a pod": {
    hurt: async () => {
      await mesh.ztunnel.setFaults("nack=failure to start proxy : port taken");
      return labelPlain();
    },
    heal: () => mesh.ztunnel.setFaults(),
  },
  "ztunnel does not answer": {
    hurt: async () => {
      await mesh.ztunnel.setFaults("never-ack");
      return labelPlain();
    },
    // what it was silent on may still be waited for
    heal: async () => {
      await mesh.ztunnel.setFaults();
      await mesh.ztunnel.command({ do: "reconnect" });
    },
  },
  "kubelet gives up": {
    hurt: async () => {
      await mesh.ztunnel.setFaults("ack-delay=2500");
      await runInMesh(impatient);
    },
    heal: () => mesh.ztunnel.setFaults(),
  },
  "kernel refuses the redirection": {
    // ztunnel, which comes first, is content without ::1 where the pod has none
    hurt: () =>
      labelPlain(async (pod) => {
        await pod.exec(["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"]);
        await pod.exec(["ip", "link", "set", "lo", "down"]);
      }),
  },
  "rules of a pod flushed": { hurt: () => web.exec(["iptables", "-t", "nat", "-F"]) },
  "rules of a pod that cannot be judged": {
    hurt: async () => {
      const chain = "ip nat PREROUTING";
      const elsewhere = `add chain ${chain} { type nat hook prerouting priority 7 ; }`;
      // in one step: between two the agent would put the chain back
      await web.exec(["nft", `flush chain ${chain}; delete chain ${chain}; ${elsewhere}`]);
    },
    heal: async () => {
      await web.exec(["nft", "flush chain ip nat PREROUTING; delete chain ip nat PREROUTING"]);
    },
  },
  "host's rules flushed": { hurt: () => run(["iptables", "-t", "nat", "-F"]) },
  "host's rules flushed without an agent": {
    hurt: async () => {
      await mesh.agent.stop();
      await run(["iptables", "-t", "nat", "-F", "ISTIO_POSTRT"]);
    },
    heal: () => mesh.startAgent(),
  },
  "host's sets flushed": { hurt: () => run(["ipset", "flush"]) },
  "chain rewritten": { hurt: () => writeFile(conflist, primary) },
  "fight over the chain": {
    hurt: async () => {
      for (let round = 0; round < 12; round += 1) {
        await writeFile(conflist, primary);
        await delay(150);
      }
    },
  },
  "agent restarted": {
    hurt: async () => {
      await mesh.agent.stop();
      await mesh.startAgent();
    },
  },
  "agent away": {
    hurt: async () => {
      await mesh.agent.kill();
      await runInMesh();
    },
    heal: () => mesh.startAgent(),
  },
  "DaemonSet deleted": {
    hurt: async () => {
      mesh.api.delete("daemonsets", daemonSet, namespace);
      await mesh.agent.stop(30_000);
    },
  },
};

/** What an operator sees in one place, without a log. */
async function look(place: SignalPlace): Promise<string> {
  switch (place) {
    case "metrics":
      return await (await fetch("http://127.0.0.1:15014/metrics")).text();
    case "readyz":
      return await (await fetch("http://127.0.0.1:8000/readyz")).text();
    case "status":
    case "doctor":
    case "verify": {
      const env = cleanEnv({
        ...settings,
        HOST_ROOT: "/",
        KUBECONFIG: "/run/node/kubeconfig",
        NODE_NAME: "node-1",
      });
      const { stdout, stderr } = await run([process.execPath, AGENT_BUNDLE, place], { env, mayFail: true });
      return stdout + stderr;
    }
    case "Events":
      return mesh.api.store
        .list("events")
        .map((event) => {
          const { reason, message } = event as unknown as { reason: string; message: string };
          return `${reason}: ${message}`;
        })
        .join("\n");
    case "kubelet's Event":
      return lastAdd;
  }
}

/** The value of a counter; 0 while it has none. */
function counterValue(metrics: string, counter: string): number {
  const line = metrics.split("\n").find((each) => each.startsWith(`${counter} `));
  return Number(line?.slice(counter.length) ?? 0);
}

function isSeen({ says, grows }: Signal, before: string, now: string): boolean {
  if (grows === true) return counterValue(now, says) > counterValue(before, says);
  return new RegExp(says, "m").test(now);
}

/** What the last fault left to be done is done: the next one's signals are not those of this one. */
async function isWell(): Promise<boolean> {
  const metrics = await look("metrics");
  const lines = ["ztunnel_connected 1", "ambient_cni_ztunnel_pending_requests 0"].concat(
    ["pods", "namespaces"].map((watch) => `ambient_cni_watch_fresh{watch="${watch}"} 1`),
  );
  return (
    lines.every((line) => metrics.includes(`${line}\n`)) &&
    !/^ambient_cni_pods_failing.* [1-9]/m.test(metrics) &&
    metrics.includes('ambient_cni_pods{state="unverified"} 0\n')
  );
}

const watched = [
  ["namespaces", { name: "plain" }],
  ["pods", { name: podName, namespace }],
] as const;

/** Makes a fault, waits for its signals and takes it back. @returns what is wrong with the signals */
export async function missingSignals(fault: FaultName): Promise<string[]> {
  const signals: readonly Signal[] = faultSignals[fault].signals;
  const { hurt, heal } = injections[fault];
  await waitFor("the node to be well", isWell, { timeoutMs: 15_000, intervalMs: 50 });
  lastAdd = "";
  for (const { metadata } of mesh.api.store.list("events"))
    mesh.api.delete("events", metadata.name, metadata.namespace);
  const wrong: string[] = [];
  const before = new Map<SignalPlace, string>();
  for (const place of new Set(signals.map((signal) => signal.place))) before.set(place, await look(place));
  const hurtPod = await hurt();
  for (const signal of signals) {
    const { place, says } = signal;
    const earlier = before.get(place) ?? "";
    if (signal.grows !== true && isSeen(signal, "", earlier))
      wrong.push(`${place} says ${says} before the fault`);
    let now = "";
    const isThere = async (): Promise<boolean> => {
      now = await look(place).catch((error: Error) => error.message);
      return isSeen(signal, earlier, now);
    };
    await waitFor("the signal", isThere, { timeoutMs: 15_000, intervalMs: 50 }).catch(() => {
      wrong.push(`${place} never says ${says}, but:\n${now.slice(0, 4000)}`);
    });
  }
  await heal?.();
  // a watch counts its failures until it has heard something, and waits longer with each
  for (const [resource, ref] of watched)
    mesh.api.edit(resource, ref, (object) => {
      object.metadata.annotations = { "after-fault": fault };
    });
  if (hurtPod instanceof Pod) await mesh.kubelet.deletePod(hurtPod);
  return wrong;
}
