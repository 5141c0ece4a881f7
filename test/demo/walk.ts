// SPDX-License-Identifier: Apache-2.0
// The steps of the demo: each does one thing to the node, verifies it against the kernel, and returns what it saw.
import { readdir } from "node:fs/promises";
import { claimCaptured, claimUntouched, untilUntouched } from "../support/node/capture-state.ts";
import { claim } from "../support/node/claim.ts";
import { linkNames, netnsUsers } from "../support/node/kernel.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { claimStates, dashboardShows } from "./dashboard-claims.ts";
import { appPort, proxiedRequest } from "./proxied-request.ts";
import { agentRestart, ztunnelRestart } from "./restarts.ts";
import { knownName, modeLabel, runPod, type Scene } from "./scene.ts";
import { sidecarPod } from "./sidecar.ts";

/** From the documentation ranges: nobody answers there, so who gets an answer was captured. */
const nowhere = ["192.0.2.53", "2001:db8::53"] as const;

/** A step with the name that is printed; it throws when a claim does not hold. */
export interface Step {
  readonly name: string;
  readonly take: (scene: Scene) => Promise<string>;
}

/** All steps between the start of the node and its end, in the order they build on each other. */
export const steps: readonly Step[] = [
  { name: "pods outside the mesh talk straight", take: outsideTheMesh },
  { name: "a label on the namespace captures running pods", take: labelTheNamespace },
  { name: "a request takes the way through ztunnel", take: pathOfARequest },
  { name: "DNS is captured", take: dnsCapture },
  { name: "a new pod is born captured", take: bornCaptured },
  { name: "the dashboard shows what the kernel has", take: dashboardShows },
  { name: "a pod that opts out stays outside", take: optedOut },
  { name: "a pod with a sidecar is led to its proxy", take: sidecarPod },
  { name: "ztunnel is restarted under traffic", take: ztunnelRestart },
  { name: "the agent is restarted under traffic", take: agentRestart },
  { name: "a deleted pod is gone everywhere", take: deleteAPod },
  { name: "without the label traffic is direct again", take: unlabelTheNamespace },
];

/** Nothing of ours is in the pods, and they talk without help. */
async function outsideTheMesh(scene: Scene): Promise<string> {
  const { client, server } = scene;
  for (const { pod } of [client, server]) await claimUntouched(pod);
  await scene.claimDirect();
  claim((await scene.heldUids()).length === 0, "ztunnel was given a pod that is not in the mesh");
  return "no rule, route or ztunnel socket in either pod; the server saw the client, IPv4 and IPv6";
}

/** Running pods are captured without a restart. */
async function labelTheNamespace(scene: Scene): Promise<string> {
  const { client, mesh, server } = scene;
  const inodes = await scene.netnsInodes();
  const start = performance.now();
  mesh.kubelet.labelNamespace("shop", { [modeLabel]: "ambient" });
  await scene.untilHeld([client.pod, server.pod]);
  // a running pod's rules come after ztunnel's word, the annotation after both
  for (const { pod } of [client, server]) await scene.untilStatus(pod, "enabled");
  const ms = Math.round(performance.now() - start);
  for (const { pod } of [client, server]) await claimCaptured(pod);
  const { workloads } = await mesh.ztunnel.stats();
  for (const { pod } of [client, server]) {
    const inode = String(await pod.netnsInode());
    claim(
      workloads[pod.uid]?.ino === inode,
      `ztunnel holds another namespace than that of "${pod.spec.name}"`,
    );
  }
  claim((await scene.netnsInodes()) === inodes, "a pod got another namespace");
  return `both running pods captured ${ms} ms after the label, with rules, ip rule, route and ztunnel's sockets in place`;
}

/** A request over each family goes through ztunnel on both sides. */
async function pathOfARequest(scene: Scene): Promise<string> {
  const { mesh } = scene;
  const seen: string[] = [];
  for (const family of [4, 6] as const) {
    seen.push(await proxiedRequest(mesh, { ...scene, family, inboundPort: 15006 }));
  }
  return seen.join("\n       ");
}

/** Questions to any server are answered by ztunnel. */
async function dnsCapture(scene: Scene): Promise<string> {
  const { mesh } = scene;
  const { pod, app } = scene.client;
  const before = (await mesh.ztunnel.stats()).workloads[pod.uid]?.dnsQueries ?? 0;
  let asked = 0;
  for (const server of nowhere) {
    for (const transport of ["udp", "tcp"] as const) {
      const { answer, from } = await app.call.dnsQuery({ server, transport, name: knownName.name });
      const address = [...answer.slice(-4)].join(".");
      claim(address === knownName.address, `the answer over ${transport} from ${server} ends in ${address}`);
      claim(from.address === server, `the answer came from ${from.address}, the question went to ${server}`);
      asked += 1;
    }
  }
  const after = (await mesh.ztunnel.stats()).workloads[pod.uid]?.dnsQueries ?? 0;
  claim(after - before === asked, `ztunnel answered ${after - before} of ${asked} questions`);
  return `${asked} questions to ${nowhere.join(" and ")} (nobody lives there) answered by ztunnel, UDP and TCP`;
}

/** When RunPodSandbox returns, the pod is captured. */
async function bornCaptured(scene: Scene): Promise<string> {
  const { mesh, server } = scene;
  const start = performance.now();
  const pod = await mesh.kubelet.runPod({ namespace: "shop", name: "late" });
  const ms = Math.round(performance.now() - start);
  // no waiting here: the chain's success is the promise
  await claimCaptured(pod);
  claim((await scene.heldUids()).includes(pod.uid), "ADD succeeded before ztunnel had the pod");
  const app = await pod.startApp();
  const answer = await app.call.get({ host: server.pod.ip4, port: appPort });
  claim(answer.peer.address === pod.ip4, `the server saw ${answer.peer.address} as the client`);
  await mesh.ztunnel.waitForStats((stats) => stats.workloads[pod.uid]?.ports["15001"]?.connections === 1);
  await scene.untilStatus(pod, "enabled");
  return `RunPodSandbox took ${ms} ms; captured before its first process ran, its first connection went through ztunnel`;
}

/** A pod label wins over the label of its namespace. */
async function optedOut(scene: Scene): Promise<string> {
  const { mesh } = scene;
  const { pod, app } = await runPod(mesh, "loner", { [modeLabel]: "none" });
  await claimUntouched(pod);
  claim(!(await scene.heldUids()).includes(pod.uid), "ztunnel was given the pod");
  const question = { server: nowhere[0], transport: "udp", name: knownName.name, timeoutMs: 150 } as const;
  const answered = await app.call.dnsQuery(question).then(
    () => true,
    () => false,
  );
  claim(!answered, "its DNS question was captured");
  await claimStates(scene);
  await mesh.kubelet.deletePod(pod);
  return "a pod labelled none in the same namespace has no rule, no ztunnel socket and nobody answers its DNS question";
}

/** After a pod nothing of it is left, with anybody. */
async function deleteAPod(scene: Scene): Promise<string> {
  const { mesh } = scene;
  const pod = [...mesh.pods.pods].find((candidate) => candidate.spec.name === "late");
  claim(pod !== undefined, 'there is no pod "late"');
  const veth = (await vethNames()).length;
  const inode = await pod.netnsInode();
  await mesh.kubelet.deletePod(pod);
  await mesh.ztunnel.waitForStats((stats) => stats.workloads[pod.uid] === undefined);
  claim(
    !(await readdir("/run/netns")).some((name) => pod.netns.endsWith(name)),
    "its namespace file is there",
  );
  const left = (await vethNames()).length;
  claim(left === veth - 1, `${left} veth links after, ${veth} before`);
  await waitFor(
    "the namespace to be released by everybody",
    async () => (await netnsUsers(inode)).length === 0,
  );
  return "ztunnel dropped it, its namespace and link are gone, and no process holds a descriptor of it";
}

/** Running pods are set free without a restart. */
async function unlabelTheNamespace(scene: Scene): Promise<string> {
  const { client, mesh, server } = scene;
  const start = performance.now();
  mesh.kubelet.labelNamespace("shop", { [modeLabel]: null });
  await mesh.ztunnel.waitForStats((stats) => Object.keys(stats.workloads).length === 0);
  // the last rules go a moment after ztunnel, for its last packets
  for (const { pod } of [client, server]) {
    await untilUntouched(pod);
  }
  const ms = Math.round(performance.now() - start);
  for (const { pod } of [client, server]) await scene.untilStatus(pod, undefined);
  await scene.claimDirect();
  return `both running pods free again after ${ms} ms, nothing left in them, traffic goes straight`;
}

/** All pods deleted, agent and ztunnel stopped: the node is as it was. */
export async function endTheScene(scene: Scene): Promise<string> {
  const { mesh } = scene;
  const pods = [...mesh.pods.pods];
  const inodes = await Promise.all(pods.map((pod) => pod.netnsInode()));
  await Promise.all(pods.map((pod) => mesh.kubelet.deletePod(pod)));
  await mesh.ztunnel.waitForStats((stats) => Object.keys(stats.workloads).length === 0);
  for (const inode of inodes) {
    await waitFor("every namespace to be released", async () => (await netnsUsers(inode)).length === 0);
  }
  claim((await mesh.agent.stop()) === 0, "the agent did not end in order");
  await mesh.ztunnel.stop();
  claim((await vethNames()).length === 0, `links are left: ${(await vethNames()).join(", ")}`);
  const names = await readdir("/run/netns");
  claim(names.length === 0, `namespaces are left: ${names.join(", ")}`);
  return "no pod, link or namespace is left in the node; agent and ztunnel ended in order";
}

async function vethNames(): Promise<string[]> {
  return (await linkNames("/proc/self/ns/net")).filter((name) => name.startsWith("veth"));
}
