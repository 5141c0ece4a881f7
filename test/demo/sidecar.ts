// SPDX-License-Identifier: Apache-2.0
// The step of the demo in which a pod with a sidecar lives in the same mesh: its proxy gets what its app sends and is sent.
import { join } from "node:path";
import { claim } from "../support/node/claim.ts";
import { injectedPod } from "../support/node/injected-pod.ts";
import { ruleCounters } from "../support/node/kernel.ts";
import type { Pod, PodModule } from "../support/node/pod.ts";
import { appPort, type RunningPod } from "./proxied-request.ts";
import type { Scene } from "./scene.ts";

type SidecarProxy = typeof import("../support/node/sidecar-proxy.ts");

const proxyModule = join(import.meta.dirname, "../support/node/sidecar-proxy.ts");
/** Source: istio/istio pkg/inject, the proxy's default user. */
const proxyUser = { uid: 1337, gid: 1337 };
const probePort = 15021;

/** Traffic in and out of an injected pod goes through its proxy, on both families; ztunnel never hears of it. */
export async function sidecarPod(scene: Scene): Promise<string> {
  const { mesh } = scene;
  const pod = await mesh.kubelet.runPod({
    namespace: "shop",
    name: "classic",
    labels: { app: "classic" },
    ...injectedPod({ env: { ISTIO_DUAL_STACK: "true" } }),
  });
  const proxy = await pod.startModule<SidecarProxy>(proxyModule);
  await proxy.call.serveSidecar(proxyUser);
  const app = await pod.startApp();
  await app.call.serveHttp(appPort);
  const way: string[] = [];
  for (const family of [4, 6] as const) {
    await claimOutbound({ pod, app }, scene.server, { family, proxy });
    await claimInbound({ pod, app }, scene.client, { family, proxy });
    way.push(`IPv${family}`);
  }
  await claimProbe(pod, proxy);
  claim(!(await scene.heldUids()).includes(pod.uid), "ztunnel was given the pod");
  await scene.untilStatus(pod, undefined);
  await mesh.kubelet.deletePod(pod);
  return `app -> 15001 -> server and client -> 15006 -> app over ${way.join(" and ")}, the probe on ${probePort} straight; ztunnel was not told of it`;
}

interface Way {
  readonly family: 4 | 6;
  readonly proxy: PodModule<SidecarProxy>;
}

async function claimOutbound(
  { pod, app }: RunningPod,
  server: RunningPod,
  { family, proxy }: Way,
): Promise<void> {
  const [own, host] = addresses(family, pod, server.pod);
  const [matched, before] = [await hits(pod, family, 15001), (await proxy.call.carriedConnections()).length];
  const answer = await app.call.get({ host, port: appPort, body: "out" });
  claim(answer.peer.address === own, `the server saw ${answer.peer.address}, the pod is ${own}`);
  claim(answer.peer.port !== answer.own.port, "nobody stood between the app and the server");
  const carried = (await proxy.call.carriedConnections()).slice(before);
  claim(
    carried.length === 1 && carried[0]?.port === 15001 && carried[0].peer.port === answer.own.port,
    `the proxy was given ${JSON.stringify(carried)} for the app's connection from port ${answer.own.port}`,
  );
  claim((await hits(pod, family, 15001)) === matched + 1, "not one packet matched the rule to 15001");
}

async function claimInbound(
  { pod, app }: RunningPod,
  client: RunningPod,
  { family, proxy }: Way,
): Promise<void> {
  const [from, host] = addresses(family, client.pod, pod);
  const [matched, before] = [await hits(pod, family, 15006), (await proxy.call.carriedConnections()).length];
  const answer = await client.app.call.get({ host, port: appPort, body: "in" });
  const passthrough = family === 4 ? "127.0.0.6" : "::6";
  claim(answer.peer.address === passthrough, `the app saw ${answer.peer.address}, not its proxy`);
  const seen = (await app.call.seenRequests()).at(-1);
  claim(seen?.body === "in", "the app did not get the request");
  const carried = (await proxy.call.carriedConnections()).slice(before);
  claim(
    carried.length === 1 && carried[0]?.port === 15006 && carried[0].peer.address === from,
    `the proxy was given ${JSON.stringify(carried)} for a connection of ${from}`,
  );
  claim((await hits(pod, family, 15006)) === matched + 1, "not one packet matched the rule to 15006");
}

/** The kubelet's question is answered by the proxy's own port and is no traffic of the app's. */
async function claimProbe(pod: Pod, proxy: Way["proxy"]): Promise<void> {
  const before = (await proxy.call.carriedConnections()).length;
  const response = await fetch(`http://${pod.ip4}:${probePort}/healthz/ready`, {
    signal: AbortSignal.timeout(3_000),
  });
  const answer = await response.text();
  claim(answer === "ok", `the probe on ${probePort} was answered "${answer}"`);
  claim((await proxy.call.carriedConnections()).length === before, "the probe went through the proxy");
}

function addresses(family: 4 | 6, first: Pod, second: Pod): readonly [string, string] {
  return family === 4 ? [first.ip4, second.ip4] : [first.ip6, second.ip6];
}

/** Packets that opened a connection and were led to a port of the proxy's. */
async function hits(pod: Pod, family: 4 | 6, port: number): Promise<number> {
  const counters = await ruleCounters(pod.netns, family);
  const led = [...counters].filter(([rule]) => rule.endsWith(`--to-ports ${port}`));
  return led.reduce((sum, [, { packets }]) => sum + packets, 0);
}
