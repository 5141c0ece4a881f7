// SPDX-License-Identifier: Apache-2.0
// A synthetic probe: does a connection from a host socket really reach an enrolled pod past ztunnel on this node's network?
import { once } from "node:events";
import { closeSync } from "node:fs";
import { createServer, type Server, Socket, type SocketConstructorOpts } from "node:net";
import { socketInNetns } from "../linux/native.ts";
import type { Netns } from "../linux/netns.ts";
import { unlessLate } from "../loop/deadline.ts";
import { canonicalAddress, familyOf } from "./probe-address.ts";

export interface ProbePathCheck {
  readonly host: Netns;
  /** The pod's namespace. A listener with a port of the kernel's choice is open in it for the time of the check. */
  readonly pod: Netns;
  /** One of the pod's addresses. */
  readonly address: string;
  /** Source address that probes are given, of the same family. */
  readonly probeSnat: string;
  /** Default 2 s. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/**
 * - `bypassed`: it arrived, with the probes' source address.
 * - `captured`: something accepted it (and may have reset it), but it did not arrive with that address: ztunnel has it.
 * - `unreachable`: nothing answered, or it was refused.
 */
export type ProbePathOutcome = "bypassed" | "captured" | "unreachable";

export interface ProbePathResult {
  readonly outcome: ProbePathOutcome;
  /** Address the pod saw, if the connection arrived. */
  readonly seenSource: string | undefined;
  /** One sentence for log and Event. */
  readonly message: string;
}

const DEFAULT_TIMEOUT_MS = 2_000;
/** After the connection stands, how long its arrival in the pod may take. */
const ARRIVAL_MS = 300;

/**
 * Remedies by the type of a CNI plugin in the chain. Source: istio.io, ambient platform prerequisites (EKS, OVN-Kubernetes);
 * istio/istio issues 52208 (Cilium) and 52765 (Calico).
 */
const REMEDIES: readonly { readonly type: RegExp; readonly remedy: string }[] = [
  {
    type: /^cilium/,
    remedy:
      "Cilium: eBPF host routing drops what pods answer to the probes' address; set bpf.hostLegacyRouting=true",
  },
  {
    type: /^ovn-k8s/,
    remedy:
      "OVN-Kubernetes: shared gateway mode passes the host's rules by; use local gateway mode (routingViaHost: true)",
  },
  {
    type: /^calico/,
    remedy: "Calico: its eBPF dataplane drops what pods answer to the probes' address before 3.29; upgrade",
  },
  {
    type: /^aws-cni/,
    remedy:
      "Amazon VPC CNI: pods with security groups need DISABLE_TCP_EARLY_DEMUX=true on its init container (then this agent keeps " +
      "their probes on the node), or POD_SECURITY_GROUP_ENFORCING_MODE=standard, or exec probes",
  },
];

const UNKNOWN_REMEDY =
  "packets from this host to its pods do not pass the host's POSTROUTING chain; look for a setting of the CNI plugin " +
  "that sends them through the host's network stack";

/**
 * Connects from the host to a listener of our own in the pod and looks at the source address it comes with. Both ends are
 * reset, so that no port of the pod is kept in TIME_WAIT, where an application that starts could not bind to it.
 * @throws NativeError when no socket can be opened in one of the namespaces (EADDRNOTAVAIL: the pod does not have the address,
 *   or not yet); RangeError for what is no address; the signal's reason
 */
export async function checkProbePath(check: ProbePathCheck): Promise<ProbePathResult> {
  const { host, pod, timeoutMs = DEFAULT_TIMEOUT_MS } = check;
  const address = canonicalAddress(check.address);
  const family = familyOf(address);
  const listenFd = socketInNetns(pod.fd, { family, type: "stream", address, port: 0, backlog: 4 });
  const server = createServer();
  const client = openClient(host, family, () => closeSync(listenFd));
  try {
    const arrival = firstArrival(server);
    server.listen({ fd: listenFd });
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    const problem = await connect(client, { host: address, port, timeoutMs, signal: check.signal });
    check.signal?.throwIfAborted();
    // a refusal says so; a reset comes from someone who had accepted
    if (problem !== undefined && problem !== "ECONNRESET") {
      const message = `A probe from the host to ${address} got no connection: ${problem}`;
      return { outcome: "unreachable", seenSource: undefined, message };
    }
    const seenSource = await unlessLate(arrival, { ms: ARRIVAL_MS });
    return judge(address, { seenSource, probeSnat: canonicalAddress(check.probeSnat) });
  } finally {
    reset(client);
    server.close();
  }
}

/** What to do about an outcome other than `bypassed`, by the types of the plugins in the node's chain. */
export function probePathRemedy(pluginTypes: readonly string[]): string {
  const known = REMEDIES.find(({ type }) => pluginTypes.some((each) => type.test(each)));
  return known?.remedy ?? UNKNOWN_REMEDY;
}

function judge(
  address: string,
  { seenSource, probeSnat }: { seenSource: string | undefined; probeSnat: string },
): ProbePathResult {
  if (seenSource === probeSnat) {
    const message = `A probe from the host reaches ${address} past ztunnel`;
    return { outcome: "bypassed", seenSource, message };
  }
  const seen = seenSource === undefined ? "it never arrived" : `it arrived from ${seenSource}`;
  const message = `A probe from the host to ${address} went through ztunnel (${seen}): policies may refuse kubelet probes`;
  return { outcome: "captured", seenSource, message };
}

function openClient(host: Netns, family: 4 | 6, onFailure: () => void): Socket {
  try {
    const fd = socketInNetns(host.fd, { family, type: "stream" });
    // Source: node lib/net.js, Socket: without manualStart it reads before it is connected. Missing in @types/node.
    return new Socket({ fd, manualStart: true } as SocketConstructorOpts);
  } catch (error) {
    onFailure();
    throw error;
  }
}

function firstArrival(server: Server): Promise<string> {
  return new Promise((resolve) => {
    server.on("connection", (socket) => {
      socket.on("error", () => {});
      resolve(socket.remoteAddress ?? "");
      reset(socket);
    });
  });
}

/** Ends a connection without a trace; one that does not stand has none. */
function reset(socket: Socket): void {
  if (socket.connecting || socket.destroyed) socket.destroy();
  else socket.resetAndDestroy();
}

/** @returns what went wrong */
async function connect(
  client: Socket,
  {
    host,
    port,
    timeoutMs,
    signal,
  }: { host: string; port: number; timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<string | undefined> {
  const late = AbortSignal.timeout(timeoutMs);
  // what comes once it stands, or is given up, is nobody's
  client.on("error", () => {});
  client.connect({ host, port });
  try {
    await once(client, "connect", { signal: signal === undefined ? late : AbortSignal.any([signal, late]) });
    return undefined;
  } catch (error) {
    if (signal?.aborted === true) return "stopped";
    if (late.aborted) return `no answer within ${timeoutMs} ms`;
    const { code, message } = error as NodeJS.ErrnoException;
    return code ?? message;
  }
}
