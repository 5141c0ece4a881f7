// SPDX-License-Identifier: Apache-2.0
// What agent-rights.test.ts does inside a node: an agent with certain capabilities and no others goes through a node's life.
import { existsSync } from "node:fs";
import { chown, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseCapabilities } from "../../src/linux/process-capabilities.ts";
import { AGENT_BUNDLE, AgentProcess } from "../support/node/agent-process.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { STEPS, type Step } from "./agent-life.ts";

/** How rules are written. */
export type Variant = "nft" | "legacy" | "native";

/** What the kernel says the agent may do, and how far it came. */
export interface Life {
  /** Sets of the agent's process, as 16 hexadecimal digits. */
  readonly effective: string;
  readonly bounding: string;
  /** Names of the steps that went well, in their order. */
  readonly done: readonly Step[];
  /** The step that did not, and why; `null`: all went well. */
  readonly failed: { readonly step: Step; readonly why: string } | null;
}

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const conflist = join(netDir, "10-net.conflist");
const original = '{ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "bridge" }] }\n';
/** Of somebody who is not root, as folders of a host may be. */
const owner = 1000;

const mesh = await MeshNode.start({ plugin: { agentWaitSeconds: 2 } });
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
// refuses what is not from a kubelet's probe: whatever reaches the application came past it
await mesh.startZtunnel({ refuseInbound: true, maxBackoffMs: 100 });

const variants: Readonly<Record<Variant, Readonly<Record<string, string>>>> = {
  nft: { FORCE_IPTABLES_BINARY: "nft" },
  legacy: { FORCE_IPTABLES_BINARY: "legacy" },
  native: { NATIVE_NFTABLES: "true" },
};

const environment = (variant: Variant) => ({
  HOST_ROOT: "/",
  CNI_AGENT_RUN_DIR: "/var/run/istio-cni",
  ZTUNNEL_UDS_ADDRESS: "/var/run/ztunnel/ztunnel.sock",
  KUBECONFIG: "/run/node/kubeconfig",
  NODE_NAME: "node-1",
  MOUNTED_CNI_NET_DIR: netDir,
  MOUNTED_CNI_BIN_DIR: binDir,
  // as in a pod of its own network
  ALLOW_SWITCH_TO_HOST_NS: "true",
  ...variants[variant],
});

/** What starts a process of root's with these capabilities and no other, as the runtime does for `drop: [ALL]`, `add: […]`. */
function withRights(names: readonly string[]): string[] {
  const set = ["-all", ...names.map((name) => `+${name.toLowerCase()}`)].join(",");
  return ["setpriv", `--bounding-set=${set}`, "--inh-caps=-all", "--"];
}

/** Goes through a node's life; ends at the first step that fails. Once in each node. @param options.startMs how long it may take to be ready */
export async function live(
  names: readonly string[],
  { variant, startMs = 15_000 }: { variant: Variant; startMs?: number },
): Promise<Life> {
  await mkdir(netDir, { recursive: true });
  await mkdir(binDir, { recursive: true });
  await writeFile(conflist, original);
  for (const path of [netDir, binDir]) await chown(path, owner, owner);
  const agent = await AgentProcess.start({
    nodeName: "node-1",
    kubeconfig: "/run/node/kubeconfig",
    wrapper: withRights(names),
    env: { ...environment(variant), INSTALL_CNI_PLUGIN: "true", RECONCILE_INTERVAL_SECONDS: "1" },
  });
  const todo = steps({ agent, names, variant, startMs });
  const done: Step[] = [];
  let failed: Life["failed"] = null;
  let sets = parseCapabilities("");
  for (const step of STEPS) {
    try {
      await todo[step]();
      done.push(step);
    } catch (error) {
      failed = { step, why: await causeOf(error as Error, agent) };
    }
    // at the last step the agent is gone
    sets = await readFile(`/proc/${agent.pid}/status`, "utf8").then(parseCapabilities, () => sets);
    if (failed !== null) break;
  }
  const hex = (set: bigint) => set.toString(16).padStart(16, "0");
  return { effective: hex(sets.effective), bounding: hex(sets.bounding), done, failed };
}

function steps(options: {
  readonly agent: AgentProcess;
  readonly names: readonly string[];
  readonly variant: Variant;
  readonly startMs: number;
}): Record<Step, () => Promise<void>> {
  const { agent, names, variant, startMs } = options;
  const annotation = (name: string) =>
    mesh.api.store.get("pods", name, "mesh").metadata.annotations?.["ambient.istio.io/redirection"];
  const command = async (...args: string[]) => {
    const argv = [...withRights(names), process.execPath, AGENT_BUNDLE, ...args];
    const { code, stdout, stderr } = await run(argv, {
      mayFail: true,
      timeoutMs: 20_000,
      env: cleanEnv(environment(variant)),
    });
    if (code !== 0) throw new Error(`${args[0]} ended with ${code}: ${stdout} ${stderr}`);
  };
  return {
    started: async () => await agent.waitReady({ timeoutMs: startMs }),
    installed: async () => {
      const text = await readFile(conflist, "utf8");
      if (!text.includes('"ambient-cni"') || !existsSync(join(binDir, "ambient-cni")))
        throw new Error(`the chain is ${text}`);
    },
    "captured at ADD": async () => {
      const pod = await mesh.kubelet.runPod({ namespace: "mesh", name: "born" });
      await waitFor("the annotation", () => annotation("born") === "enabled");
      const app = await pod.startApp();
      await app.call.serveHttp(8080);
    },
    "host probes": async () => {
      const [pod] = mesh.pods.pods;
      const { status } = await answerOf(`http://${pod?.ip4}:8080/`);
      if (status !== 200) throw new Error(`the probe was answered with ${status}`);
    },
    "captured while it ran": async () => {
      const { kubelet } = mesh;
      const pod = await kubelet.runPod({
        namespace: "mesh",
        name: "running",
        labels: { "istio.io/dataplane-mode": "none" },
      });
      kubelet.labelPod(pod, { "istio.io/dataplane-mode": null });
      await waitFor("the annotation", () => annotation("running") === "enabled");
    },
    verified: async () => await command("verify"),
    repaired: async () => {
      const [pod] = mesh.pods.pods;
      if (pod === undefined) throw new Error("no pod");
      await pod.exec(["ip", "rule", "del", "pref", "32764"]);
      await pod.exec(damages[variant]);
      await waitFor(
        "the repair",
        async () => (await pod.exec(["ip", "rule"])).stdout.includes("fwmark 0x111/0xfff"),
        { timeoutMs: 8_000 },
      );
      await waitFor("verify", async () => await command("verify").then(() => true), { timeoutMs: 8_000 });
    },
    left: async () => {
      for (const pod of mesh.pods.pods) mesh.kubelet.labelPod(pod, { "istio.io/dataplane-mode": "none" });
      const isFree = () => annotation("born") === undefined && annotation("running") === undefined;
      await waitFor("no annotation", isFree);
      for (const pod of mesh.pods.pods)
        await waitFor("no rule", async () => !(await pod.exec(["ip", "rule"])).stdout.includes("0x111"));
    },
    uninstalled: async () => {
      await agent.stop();
      await mesh.ztunnel.stop();
      await command("uninstall", "--quiet-seconds", "0");
      if ((await readFile(conflist, "utf8")) !== original) throw new Error("the chain is not what it was");
    },
  };
}

const damages: Readonly<Record<Variant, readonly string[]>> = {
  nft: ["iptables-nft", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"],
  legacy: ["iptables-legacy", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"],
  native: ["nft", "delete", "table", "inet", "istio-ambient-nat"],
};

/** What the agent says of it, where it says anything; else the step's own word. */
async function causeOf(error: Error, agent: AgentProcess): Promise<string> {
  const ready = await answerOf("http://127.0.0.1:8000/readyz").then(({ text }) => text, String);
  const said = agent.lines
    .filter(({ json }) => json === undefined || ["error", "warn", "fatal"].includes(String(json.level)))
    .map(({ text, json }) => String(json?.msg ?? text));
  return [error.message.split("\n")[0], ready, ...said].join("\n").slice(0, 6_000);
}

async function answerOf(url: string): Promise<{ status: number; text: string }> {
  const answer = await fetch(url, { headers: { connection: "close" }, signal: AbortSignal.timeout(3_000) });
  return { status: answer.status, text: await answer.text() };
}
