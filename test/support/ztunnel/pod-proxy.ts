// SPDX-License-Identifier: Apache-2.0
// What the stand-in does for one pod at socket depth: accepts on the redirected ports and connects on, keeping the
// client's address towards the app. Plain bytes where ztunnel has TLS; the way through the kernel is the same.
// Connections end as the peers of ztunnel see it: with FIN.
// Source: istio/ztunnel src/proxy/inbound.rs, inbound_passthrough.rs, outbound.rs; seen with the real one.
import type { ServerHttp2Session } from "node:http2";
import { createServer, isIPv6, type Server, Socket, type SocketConstructorOpts } from "node:net";
import type { Duplex } from "node:stream";
import { socketInNetns } from "../../../src/linux/native.ts";
import { DnsForwarder } from "./dns-forwarder.ts";
import { DnsService, type DnsTable } from "./dns-service.ts";
import { endInOrder } from "./end-in-order.ts";
import type { EventLog } from "./event-log.ts";
import { couple, HbonePool, serveHbone, type TunnelRequest } from "./hbone.ts";
import type { KnownWorkloads } from "./known-workloads.ts";
import { type Endpoint, originalDestination } from "./netlink-query.ts";
import {
  backlog,
  inboundHbonePort,
  inboundPlainPort,
  openPodSockets,
  type PodSocketOptions,
  type PodSockets,
  ztunnelMark,
} from "./pod-sockets.ts";
import { TrafficCounters } from "./traffic-counters.ts";
import type { PodDescription, RunningPod } from "./workload-state.ts";

/** What the proxies of all pods share, and how the sockets of this one are opened. */
export interface PodProxyOptions extends PodSocketOptions {
  readonly log: EventLog;
  readonly dns: DnsTable;
  readonly nameservers: readonly string[];
  /** Go from pod to pod through HBONE; else straight to the app's port. */
  readonly hbone: boolean;
  readonly refuseInbound: () => boolean;
  readonly known: KnownWorkloads;
}

const connectDeadlineMs = 10_000;

/** The sockets and connections of one pod. */
export class PodProxy implements RunningPod {
  readonly counters = new TrafficCounters();
  readonly #pod: PodDescription;
  readonly #options: PodProxyOptions;
  readonly #servers: Server[] = [];
  readonly #dns: DnsService;
  readonly #forwarder: DnsForwarder;
  readonly #pool: HbonePool;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #sockets = new Set<Socket>();
  /** Of these the HBONE connections, which their sessions end. */
  readonly #carriers = new WeakSet<Socket>();
  #stopped = false;

  /** @throws StartError when a socket cannot be bound */
  constructor(pod: PodDescription, options: PodProxyOptions) {
    this.#pod = pod;
    this.#options = options;
    this.#pool = new HbonePool((address) => this.#connect({ address, port: inboundHbonePort }));
    this.#forwarder = new DnsForwarder(pod.netns.fd, options.nameservers);
    const sockets = openPodSockets(pod.netns.fd, options);
    this.#listen(sockets);
    this.#dns = new DnsService(sockets, {
      table: options.dns,
      onquery: () => this.counters.dnsQuery(),
      untilKnown: () => options.known.untilKnown(pod.info),
      forward: (query) => this.#forwarder.forward(query),
    });
  }

  /** Connections to and from other pods' ztunnels, in use or idle. */
  get hboneConnections(): { readonly outbound: number; readonly inbound: number } {
    return { outbound: this.#pool.size, inbound: this.#sessions.size };
  }

  /** Accepts nothing more; what is open goes on, and HBONE connections end with their last tunnel. */
  drain(): void {
    for (const server of this.#servers.splice(0)) server.close();
    this.#dns.close();
    this.#pool.drain();
    for (const session of this.#sessions) session.close();
  }

  stop(): void {
    this.#stopped = true;
    for (const server of this.#servers.splice(0)) server.close();
    this.#dns.close();
    this.#forwarder.close();
    this.#pool.close();
    for (const session of this.#sessions) session.destroy();
    for (const socket of this.#sockets) {
      if (this.#carriers.has(socket)) socket.destroy();
      else endInOrder(socket);
    }
  }

  #listen({ tcp }: PodSockets): void {
    for (const [port, fd] of tcp) {
      // whoever ends an HBONE connection ends all of its tunnels, whoever ends another one only its own direction
      const isHbone = port === inboundHbonePort;
      const options = { allowHalfOpen: !isHbone, pauseOnConnect: !isHbone, noDelay: true };
      const server = createServer(options, (client) => {
        this.#track(client);
        if (isHbone) this.#serveHbone(client);
        else void this.#serve(client, port);
      });
      server.on("error", (error) => this.#log("listen-error", { port, error: error.message }));
      server.listen({ fd }, backlog);
      this.#servers.push(server);
    }
  }

  async #serve(client: Socket, port: number): Promise<void> {
    client.once("close", this.counters.watch(client, port));
    try {
      if (port === inboundPlainPort && this.#refusesInbound(client)) return;
      const remote = endpoint(client.remoteAddress, client.remotePort);
      const local = endpoint(client.localAddress, client.localPort);
      await this.#untilKnown();
      const target = await originalDestination(this.#pod.netns.fd, { local, remote });
      if (target === undefined || (target.address === local.address && target.port === local.port)) {
        throw new Error("the connection was not redirected here");
      }
      const source = port === inboundPlainPort ? remote.address : undefined;
      const upstream = await this.#wayTo(target, source);
      if (client.destroyed) upstream.destroy();
      else couple(client, upstream);
    } catch (error) {
      this.#failed(port, { why: (error as Error).message, source: client.remoteAddress });
      client.destroy();
    }
  }

  /** `source` is the address the app shall see; without one it is outbound traffic. */
  #wayTo(target: Endpoint, source: string | undefined): Promise<Duplex> {
    const { hbone, known } = this.#options;
    if (source === undefined && hbone && known.speaksHbone(target.address)) return this.#pool.open(target);
    return this.#connect(target, source);
  }

  #serveHbone(client: Socket): void {
    if (this.#refusesInbound(client)) return;
    this.#carriers.add(client);
    const remote = client.remoteAddress;
    const local = client.localAddress;
    const session = serveHbone(client, (request) => void this.#serveTunnel(request, { remote, local }));
    this.#sessions.add(session);
    session.once("error", (error) => this.#failed(inboundHbonePort, { why: error.message, source: remote }));
    session.once("close", () => this.#sessions.delete(session));
  }

  async #serveTunnel(
    request: TunnelRequest,
    { remote, local }: { remote: string | undefined; local: string | undefined },
  ): Promise<void> {
    const carried = new Tunnel();
    const ended = this.counters.watch(carried, inboundHbonePort);
    try {
      await this.#untilKnown();
      if (request.target.address !== plain(local))
        throw new Error(`the tunnel is for ${request.target.address}`);
      const upstream = await this.#connect(request.target, plain(remote));
      carried.upstream = upstream;
      const stream = request.accept();
      stream.once("close", ended);
      if (stream.destroyed) upstream.destroy();
      else couple(stream, upstream);
    } catch (error) {
      ended();
      this.#failed(inboundHbonePort, { why: (error as Error).message, source: remote });
      request.refuse(503);
    }
  }

  #refusesInbound(client: Socket): boolean {
    if (!this.#options.refuseInbound()) return false;
    this.#failed(inboundPlainPort, { why: "inbound is refused", source: client.remoteAddress });
    client.resetAndDestroy();
    return true;
  }

  async #untilKnown(): Promise<void> {
    const { known } = this.#options;
    if (!(await known.untilKnown(this.#pod.info))) throw new Error("the pod is not known");
  }

  #connect(target: Endpoint, source?: string): Promise<Socket> {
    if (this.#stopped) throw new Error("the pod is gone");
    const family = isIPv6(target.address) ? 6 : 4;
    const spoofed = source !== undefined && source !== target.address;
    const fd = socketInNetns(this.#pod.netns.fd, {
      family,
      type: "stream",
      mark: ztunnelMark,
      ...(spoofed ? { address: source, port: 0, transparent: true } : {}),
    });
    const { promise, resolve, reject } = Promise.withResolvers<Socket>();
    // manualStart: else Node reads at once, and a socket that is not connected yet answers that with ENOTCONN
    const isHbone = target.port === inboundHbonePort;
    const socket = new Socket({ fd, allowHalfOpen: !isHbone, manualStart: true } as SocketConstructorOpts);
    if (isHbone) this.#carriers.add(socket);
    this.#track(socket);
    socket.setNoDelay(true);
    const deadline = setTimeout(() => socket.destroy(), connectDeadlineMs);
    socket.once("error", reject);
    socket.once("close", () => {
      clearTimeout(deadline);
      reject(new Error("closed before it was connected"));
    });
    socket.connect({ host: target.address, port: target.port, family }, () => {
      clearTimeout(deadline);
      resolve(socket);
    });
    return promise;
  }

  #failed(port: number, fields: Record<string, unknown>): void {
    this.counters.failed(port);
    this.#log("refused", { port, ...fields });
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    // an error is always followed by close, which is where things are put in order
    socket.on("error", () => {});
    socket.once("close", () => this.#sockets.delete(socket));
    if (this.#stopped) socket.destroy();
  }

  #log(event: string, fields: Record<string, unknown>): void {
    this.#options.log.write(event, { uid: this.#pod.uid, ...fields });
  }
}

/** What a tunnel has carried is what its connection to the app has. */
class Tunnel {
  upstream: Socket | undefined;

  get bytesRead(): number {
    return this.upstream?.bytesWritten ?? 0;
  }

  get bytesWritten(): number {
    return this.upstream?.bytesRead ?? 0;
  }
}

/** A socket's address as conntrack knows it: IPv4 without the mapping. */
function endpoint(address: string | undefined, port: number | undefined): Endpoint {
  if (address === undefined || port === undefined) throw new Error("the client is gone");
  return { address: plain(address), port };
}

function plain(address: string | undefined): string {
  if (address === undefined) throw new Error("the client is gone");
  return address.replace(/^::ffff:(?=\d+\.)/, "");
}
