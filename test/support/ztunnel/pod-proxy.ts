// SPDX-License-Identifier: Apache-2.0
// What the stand-in does for one pod at socket depth: accepts on the redirected ports and connects on, keeping the
// client's address towards the app. Plain bytes where ztunnel has TLS; the way through the kernel is the same.
// Source: istio/ztunnel src/proxy/inbound.rs, inbound_passthrough.rs, outbound.rs.
import { createServer, isIPv6, type Server, Socket, type SocketConstructorOpts } from "node:net";
import { socketInNetns } from "../../../src/linux/native.ts";
import { DnsService, type DnsTable } from "./dns-service.ts";
import type { EventLog } from "./event-log.ts";
import { type Endpoint, originalDestination } from "./netlink-query.ts";
import {
  inboundHbonePort,
  inboundPlainPort,
  openPodSockets,
  outboundPort,
  type PodSockets,
  ztunnelMark,
} from "./pod-sockets.ts";
import { TrafficCounters } from "./traffic-counters.ts";
import type { PodDescription, RunningPod } from "./workload-state.ts";

/** What the proxies of all pods share. */
export interface PodProxyOptions {
  readonly log: EventLog;
  readonly reusePort: boolean;
  readonly dns: DnsTable;
  /** Go pod to pod through the other pod's 15008 instead of straight to the app's port. */
  readonly hbone: boolean;
  readonly refuseInbound: () => boolean;
  /** True when this stand-in holds a pod with this address. */
  readonly isHeldAddress: (address: string) => boolean;
}

const preamble = /^ORIGDST (\S+) (\d+) SRC (\S+)\n/;
const maxPreambleBytes = 200;

/** The sockets and connections of one pod. */
export class PodProxy implements RunningPod {
  readonly counters = new TrafficCounters();
  readonly #pod: PodDescription;
  readonly #options: PodProxyOptions;
  readonly #servers: Server[] = [];
  readonly #dns: DnsService;
  readonly #sockets = new Set<Socket>();
  #stopped = false;

  /** @throws StartError when a socket cannot be bound */
  constructor(pod: PodDescription, options: PodProxyOptions) {
    this.#pod = pod;
    this.#options = options;
    const sockets = openPodSockets(pod.netns.fd, { reusePort: options.reusePort });
    this.#listen(sockets);
    this.#dns = new DnsService(sockets, { table: options.dns, onquery: () => this.counters.dnsQuery() });
  }

  stop(): void {
    this.#stopped = true;
    for (const server of this.#servers) server.close();
    this.#dns.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  #listen({ tcp }: PodSockets): void {
    for (const [port, fd] of tcp) {
      const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
        this.counters.watch(client, port);
        this.#track(client);
        void this.#serve(client, port);
      });
      server.on("error", (error) => this.#log("listen-error", { port, error: error.message }));
      server.listen({ fd });
      this.#servers.push(server);
    }
  }

  async #serve(client: Socket, port: number): Promise<void> {
    try {
      if (port !== outboundPort && this.#options.refuseInbound()) throw new Error("inbound is refused");
      const remote = endpoint(client.remoteAddress, client.remotePort);
      const local = endpoint(client.localAddress, client.localPort);
      if (port === inboundHbonePort) return await this.#serveHbone(client, remote);
      const target = await originalDestination(this.#pod.netns.fd, { local, remote });
      if (target === undefined || (target.address === local.address && target.port === local.port)) {
        throw new Error("the connection was not redirected here");
      }
      if (port === inboundPlainPort) await this.#forward(client, { port, target, source: remote.address });
      else await this.#serveOutbound(client, { target, remote });
    } catch (error) {
      this.#refuse(client, { port, why: (error as Error).message });
    }
  }

  async #serveOutbound(client: Socket, way: { target: Endpoint; remote: Endpoint }): Promise<void> {
    const { target, remote } = way;
    if (!this.#options.hbone || !this.#options.isHeldAddress(target.address)) {
      return this.#forward(client, { port: outboundPort, target });
    }
    const hello = `ORIGDST ${target.address} ${target.port} SRC ${remote.address}\n`;
    const via = { address: target.address, port: inboundHbonePort };
    await this.#forward(client, { port: outboundPort, target: via, first: hello });
  }

  async #serveHbone(client: Socket, remote: Endpoint): Promise<void> {
    const head = await readPreamble(client);
    const [line, address, port, source] = preamble.exec(head.toString("latin1")) ?? [];
    if (line === undefined || address === undefined || source === undefined) {
      throw new Error(`no preamble from ${remote.address}`);
    }
    const first = head.subarray(line.length);
    const target = { address, port: Number(port) };
    await this.#forward(client, { port: inboundHbonePort, target, source, first });
  }

  /** Connects on from inside the pod and couples the two; `source` is the address the app shall see. */
  async #forward(
    client: Socket,
    way: { port: number; target: Endpoint; source?: string; first?: string | Uint8Array },
  ): Promise<void> {
    const { port, target, source, first } = way;
    const upstream = await this.#connect(target, source);
    this.#log("forward", { port, target: `${target.address} ${target.port}`, source: client.remoteAddress });
    if (client.destroyed) {
      upstream.resetAndDestroy();
      return;
    }
    if (first !== undefined && first.length > 0) upstream.write(first);
    couple(client, upstream);
  }

  #connect(target: Endpoint, source: string | undefined): Promise<Socket> {
    if (this.#stopped) throw new Error("the pod is gone");
    const family = isIPv6(target.address) ? 6 : 4;
    const fd = socketInNetns(this.#pod.netns.fd, {
      family,
      type: "stream",
      mark: ztunnelMark,
      ...(source === undefined ? {} : { address: source, port: 0, transparent: true }),
    });
    const { promise, resolve, reject } = Promise.withResolvers<Socket>();
    // manualStart: else Node reads at once, and a socket that is not connected yet answers that with ENOTCONN
    const socket = new Socket({ fd, allowHalfOpen: true, manualStart: true } as SocketConstructorOpts);
    this.#track(socket);
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("closed before it was connected")));
    socket.connect({ host: target.address, port: target.port, family }, () => resolve(socket));
    return promise;
  }

  #refuse(client: Socket, { port, why }: { port: number; why: string }): void {
    this.counters.failed(port);
    this.#log("refused", { port, why, source: client.remoteAddress });
    client.resetAndDestroy();
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    // an error is always followed by close, which is where things are put in order
    socket.on("error", () => {});
    socket.once("close", () => this.#sockets.delete(socket));
    if (this.#stopped) socket.resetAndDestroy();
  }

  #log(event: string, fields: Record<string, unknown>): void {
    this.#options.log.write(event, { uid: this.#pod.uid, ...fields });
  }
}

/** Joins two connections: bytes, half-closes, and resets go from each to the other. */
function couple(one: Socket, other: Socket): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.pipe(to);
    from.once("close", (hadError) => {
      if (hadError || !from.readableEnded) to.resetAndDestroy();
    });
  }
}

/** Reads up to the end of the first line, and leaves the socket paused. */
async function readPreamble(client: Socket): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  let seen = Buffer.alloc(0);
  const ondata = (chunk: Buffer) => {
    seen = Buffer.concat([seen, chunk]);
    if (seen.includes(0x0a) || seen.length > maxPreambleBytes) resolve(seen);
  };
  const onend = () => reject(new Error("the connection ended before its preamble"));
  client.on("data", ondata);
  client.once("end", onend);
  client.once("close", onend);
  client.resume();
  try {
    return await promise;
  } finally {
    client.off("data", ondata);
    client.off("end", onend);
    client.off("close", onend);
    client.pause();
  }
}

/** A socket's address as conntrack knows it: IPv4 without the mapping. */
function endpoint(address: string | undefined, port: number | undefined): Endpoint {
  if (address === undefined || port === undefined) throw new Error("the client is gone");
  return { address: address.replace(/^::ffff:(?=\d+\.)/, ""), port };
}
