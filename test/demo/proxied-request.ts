// SPDX-License-Identifier: Apache-2.0
// One request between two pods, and whether it went through ztunnel: told by six witnesses that do not know of each other.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { claim } from "../support/node/claim.ts";
import { conntrackEntries, ruleCounters } from "../support/node/kernel.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import { PacketCapture } from "../support/node/packet-capture.ts";
import type { Pod, PodApp } from "../support/node/pod.ts";
import type { Answer } from "../support/node/pod-app.ts";
import { waitFor } from "../support/node/wait-for.ts";

/** A pod with its application. */
export interface RunningPod {
  readonly pod: Pod;
  readonly app: PodApp;
}

/** Port of the HTTP server in each pod. */
export const appPort = 8080;

/** Who talks to whom, and which of ztunnel's ports the request is to arrive on in the server's pod. */
export interface ProxiedRequest {
  readonly client: RunningPod;
  readonly server: RunningPod;
  readonly family: 4 | 6;
  readonly inboundPort: 15006 | 15008;
}

/**
 * Sends a request and claims that it took the whole way.
 *
 * The witnesses: the server's application, ztunnel's byte counters, packets captured in the server's pod, the counters of the
 * kernel's rules in both pods, and the client's connection tracking.
 * @returns the way in words.
 * @throws ClaimError
 */
export async function proxiedRequest(mesh: MeshNode, request: ProxiedRequest): Promise<string> {
  const { client, server, family, inboundPort } = request;
  const [clientIp, host] = family === 4 ? [client.pod.ip4, server.pod.ip4] : [client.pod.ip6, server.pod.ip6];
  const token = `token-${randomUUID()}`;
  const bytesBefore = await ztunnelBytes(mesh, request);
  const hitsBefore = await redirectHits(request);
  const capture = await PacketCapture.start(server.pod.netns, {
    interfaceName: "lo",
    file: join(mesh.node.scratch, `${token}.pcap`),
  });
  const answer = await client.app.call.get({ host, port: appPort, body: token });
  claim(answer.peer.address === clientIp, `the server saw ${answer.peer.address}, the client is ${clientIp}`);
  claim(answer.local.address === host, `the server was reached as ${answer.local.address}`);
  await claimBytes(mesh, { request, answer, bytesBefore });
  await claimCaptured(capture, { token, clientIp });
  await claimRulesMatched(request, hitsBefore);
  const flows = await conntrackEntries(client.pod.netns);
  claim(
    flows.some((flow) => flow.includes("sport=15001")),
    "no connection of the client was translated to 15001",
  );
  const way = `client ${clientIp} -> 15001 -> ${inboundPort} -> server port ${appPort}`;
  return `${way}: app saw ${clientIp}; ${answer.sentBytes} bytes sent, on 15001, on ${inboundPort} and received`;
}

interface Sums {
  readonly outbound: number;
  readonly inbound: number;
}

async function claimBytes(
  mesh: MeshNode,
  what: { request: ProxiedRequest; answer: Answer; bytesBefore: Sums },
): Promise<void> {
  const { sentBytes, receivedBytes } = what.answer;
  const { inboundPort } = what.request;
  const sums = await waitFor("ztunnel to count the request", async () => {
    const now = await ztunnelBytes(mesh, what.request);
    const outbound = now.outbound - what.bytesBefore.outbound;
    const inbound = now.inbound - what.bytesBefore.inbound;
    return outbound >= sentBytes && inbound >= sentBytes && { outbound, inbound };
  });
  claim(receivedBytes === sentBytes, `${sentBytes} bytes were sent, the server received ${receivedBytes}`);
  claim(sums.outbound === sentBytes, `${sentBytes} bytes were sent, ztunnel took ${sums.outbound} on 15001`);
  const onInbound = sums.inbound === sentBytes;
  claim(onInbound, `${sentBytes} bytes were sent, ztunnel took ${sums.inbound} on ${inboundPort}`);
}

/** On lo of the server only ztunnel talks to the application, and it must use the client's address. */
async function claimCaptured(
  capture: PacketCapture,
  what: { token: string; clientIp: string },
): Promise<void> {
  const carries = (segment: { readonly payload: Buffer }): boolean => segment.payload.includes(what.token);
  const segments = await capture.finish("the request to pass lo of the server", carries);
  const carrier = segments.find((segment) => carries(segment) && segment.destinationPort === appPort);
  claim(carrier !== undefined, `the request never passed lo of the server towards port ${appPort}`);
  claim(carrier.source === what.clientIp, `on lo of the server the request came from ${carrier.source}`);
}

async function claimRulesMatched(request: ProxiedRequest, before: Sums): Promise<void> {
  const after = await redirectHits(request);
  claim(after.outbound > before.outbound, "no packet matched the rule to 15001 in the client");
  const matched = after.inbound > before.inbound;
  const expected = request.inboundPort === 15006;
  claim(matched === expected, `packets ${matched ? "" : "never "}matched the rule to 15006 in the server`);
}

/** Bytes that ztunnel has taken from clients: in the client's pod on 15001, in the server's on the inbound port. */
async function ztunnelBytes(mesh: MeshNode, { client, server, inboundPort }: ProxiedRequest): Promise<Sums> {
  const { workloads } = await mesh.ztunnel.stats();
  return {
    outbound: workloads[client.pod.uid]?.ports["15001"]?.fromClientBytes ?? 0,
    inbound: workloads[server.pod.uid]?.ports[String(inboundPort)]?.fromClientBytes ?? 0,
  };
}

/** Packets that matched the redirect rules: to 15001 in the client's pod, to 15006 in the server's. */
async function redirectHits({ client, server, family }: ProxiedRequest): Promise<Sums> {
  const packets = async (pod: Pod, rule: RegExp): Promise<number> => {
    const counters = [...(await ruleCounters(pod.netns, family))].filter(([text]) => rule.test(text));
    return counters.reduce((sum, [, count]) => sum + count.packets, 0);
  };
  return {
    outbound: await packets(client.pod, /^nat ISTIO_OUTPUT .*--to-ports 15001$/),
    inbound: await packets(server.pod, /^nat ISTIO_PRERT .*--to-ports 15006$/),
  };
}
