// SPDX-License-Identifier: Apache-2.0
// What evidence.test.ts does inside a node: tenants say what is not so, in names of cgroups, addresses and annotations.
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { PodDetailReport } from "../../src/status/state-report.ts";
import { ask } from "../status/state-client.ts";
import { Kubelet } from "../support/node/kubelet.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { cleanEnv } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const mesh = await MeshNode.start();
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel({ maxBackoffMs: 100 });
await mesh.ztunnel.waitForReady();
/** Pods that are older than the agent: no ADD told it of them. */
const untold = new Kubelet({ api: mesh.api, runtime: mesh.plainPods, nodeName: "node-1" });
let count = 0;

async function report({ spec }: Pod): Promise<PodDetailReport> {
  const answer = await ask({ socketPath }, `/api/v1/pods/${spec.namespace}/${spec.name}`);
  return answer.json() as unknown as PodDetailReport;
}

async function startIn(pod: Pod, cgroup: string): Promise<ChildProcess> {
  const child = spawn("nsenter", [`--net=${pod.netns}`, "sleep", "infinity"], {
    env: cleanEnv(),
    stdio: "ignore",
  });
  await mkdir(cgroup, { recursive: true });
  await writeFile(join(cgroup, "cgroup.procs"), String(child.pid));
  return child;
}

async function natRules(pod: Pod): Promise<string[]> {
  const { stdout } = await pod.exec(["iptables-save", "-t", "nat"]);
  return stdout.split("\n").filter((line) => line.startsWith("-A"));
}

const sidecarRules = (marks: string) => `*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A PREROUTING -p udp -j ISTIO_PRERT
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_PRERT -p udp -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
*mangle
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -j MARK --set-xmark ${marks}
COMMIT
`;

async function allRules(pod: Pod): Promise<string> {
  const texts = ["iptables-nft-save", "iptables-legacy-save"].map(async (program) => {
    const { stdout } = await pod.exec([program]);
    return stdout
      .split("\n")
      .filter((line) => /^(?:-A|:)/.test(line))
      .map((line) => line.replace(/ \[.*/, ""));
  });
  return (await Promise.all(texts)).flat().join("\n");
}

/** What became of chains with our names that another wrote. */
export interface Strangers {
  readonly isAnnounced: boolean;
  readonly hasSame: boolean;
  /** Nothing of ours is left. */
  readonly isClean: boolean;
}

/**
 * A pod that belongs to no mesh has a sidecar's rules, and one that says that we captured it.
 * @param isOurs the pod was captured before that, and its word is true: its sidecar's chains stand in the other variant
 */
export async function sidecarChains(
  variant: "nft" | "legacy",
  { isOurs }: { readonly isOurs: boolean },
): Promise<Strangers> {
  const name = `sidecar-${++count}`;
  const pod = await mesh.kubelet.runPod({ namespace: isOurs ? "mesh" : "plain", name });
  await pod.exec([`iptables-${variant}-restore`, "--noflush"], { stdin: sidecarRules("0x539/0xffffffff") });
  const before = await allRules(pod);
  const object = { name, namespace: pod.spec.namespace };
  mesh.api.edit("pods", object, ({ metadata }) => {
    if (isOurs) metadata.labels = { ...metadata.labels, "istio.io/dataplane-mode": "none" };
    else
      metadata.annotations = {
        ...metadata.annotations,
        "sidecar.istio.io/status": "{}",
        "ambient.istio.io/redirection": "enabled",
      };
  });
  const isAnnounced = () => mesh.kubelet.annotation(pod, "ambient.istio.io/redirection") !== undefined;
  await waitFor("the pod to be out of the mesh", () => !isAnnounced(), { timeoutMs: 15_000 });
  await waitFor("the pod to be left", async () => (await report(pod)).state === "outside", {
    timeoutMs: 15_000,
  });
  const after = await allRules(pod);
  const { stdout: rules } = await pod.exec(["ip", "rule"]);
  const outcome = {
    isAnnounced: isAnnounced(),
    hasSame: isOurs
      ? after.includes("-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN")
      : after === before,
    isClean: !rules.includes("0x111") && !after.includes("169.254.7.127"),
  };
  await mesh.kubelet.deletePod(pod);
  return outcome;
}

/** Whose namespace a victim's identity was given to. */
export interface Identity {
  readonly state: string;
  readonly served: "victim's" | "attacker's" | "none";
  readonly rules: { readonly victim: boolean; readonly attacker: boolean };
}

/**
 * An older process of another pod says by its cgroup's name that it is the victim's, whose address its namespace has.
 * @param nameOf what it makes below its own cgroup
 */
export async function cgroupName(
  name: "pod" | "container",
  { isTold }: { readonly isTold: boolean },
): Promise<Identity> {
  const number = ++count;
  const evil = await untold.runPod({ namespace: "plain", name: `evil-${number}` });
  const container = randomBytes(32).toString("hex");
  const uid = crypto.randomUUID();
  const below = name === "pod" ? `x/pod${uid}/${container}` : container;
  const old = await startIn(evil, join(evil.cgroup, randomBytes(32).toString("hex"), below));
  const kubelet = isTold ? mesh.kubelet : untold;
  const victim = await kubelet.runPod({ namespace: "plain", name: `victim-${number}`, uid });
  mesh.api.edit("pods", { name: `victim-${number}`, namespace: "plain" }, (object) => {
    object.status = {
      ...object.status,
      containerStatuses: [{ name: "app", containerID: `containerd://${container}` }],
    };
  });
  for (const address of victim.ips)
    await evil.exec([
      "ip",
      "address",
      "add",
      address,
      "dev",
      "lo",
      ...(address.includes(":") ? ["nodad"] : []),
    ]);
  try {
    mesh.kubelet.labelPod(victim, { "istio.io/dataplane-mode": "ambient" });
    await waitFor("the victim to be enrolled", async () => (await report(victim)).state === "enrolled", {
      timeoutMs: 15_000,
    });
    const { state } = await report(victim);
    const { workloads } = await mesh.ztunnel.stats();
    const ino = Number(workloads[uid]?.ino);
    const served =
      ino === (await victim.netnsInode())
        ? "victim's"
        : ino === (await evil.netnsInode())
          ? "attacker's"
          : "none";
    const rules = {
      victim: (await natRules(victim)).length > 0,
      attacker: (await natRules(evil)).length > 0,
    };
    return { state, served, rules };
  } finally {
    old.kill("SIGKILL");
    await untold.deletePod(evil);
    await kubelet.deletePod(victim);
  }
}
