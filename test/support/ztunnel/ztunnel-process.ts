// SPDX-License-Identifier: Apache-2.0
// The stand-in put together: link, state and, at socket depth, the proxies; what main.ts runs.
import { readdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { hasIpv6 } from "../../../src/linux/host-netns.ts";
import { systemNameservers } from "./dns-forwarder.ts";
import type { EventLog } from "./event-log.ts";
import { type Faults, parseFaults } from "./faults.ts";
import { type KnownWorkload, KnownWorkloads } from "./known-workloads.ts";
import { loopbackState, podAddresses } from "./netlink-query.ts";
import { PodProxy } from "./pod-proxy.ts";
import { type ParsedOptions, parseDnsTable } from "./stand-in-options.ts";
import { StartError } from "./strictness.ts";
import type { PortTraffic } from "./traffic-counters.ts";
import { type PodDescription, type RunningPod, WorkloadState } from "./workload-state.ts";
import { ZdsLink } from "./zds-link.ts";
import type { StandInWorkloadInfo } from "./zds-message.ts";

/** Everything a test may ask about. */
export interface StandInStats {
  readonly ready: boolean;
  readonly connected: boolean;
  /** Connections made to the agent so far. */
  readonly connections: number;
  readonly readFailures: number;
  readonly openFds: number;
  readonly pending: readonly string[];
  readonly workloads: Readonly<Record<string, WorkloadStats>>;
}

/** One pod the stand-in holds; traffic is there at socket depth only. */
export interface WorkloadStats {
  readonly dev: string;
  readonly ino: string;
  readonly info: StandInWorkloadInfo;
  readonly addresses: readonly string[];
  readonly ports: Readonly<Record<string, PortTraffic>>;
  readonly dnsQueries: number;
  /** Connections and tunnels that somebody uses now. */
  readonly openConnections: number;
  /** Connections to (outbound) and from (inbound) other pods' 15008, in use or idle. */
  readonly hbone: { readonly outbound: number; readonly inbound: number };
}

const drainPollMs = 10;

/** A ztunnel, as far as an agent and the kernel can tell. */
export class ZtunnelProcess {
  readonly #options: ParsedOptions;
  readonly #log: EventLog;
  readonly #proxies = new Map<string, PodProxy>();
  readonly #addresses = new Map<string, readonly string[]>();
  readonly #known: KnownWorkloads;
  readonly #nameservers: readonly string[];
  readonly #state: WorkloadState;
  readonly #link: ZdsLink;
  #faults: Faults;
  #refuseInbound: boolean;
  #draining = false;

  constructor(options: ParsedOptions, { log, onfatal }: { log: EventLog; onfatal: (error: Error) => void }) {
    this.#options = options;
    this.#log = log;
    this.#faults = parseFaults(options.faults);
    this.#refuseInbound = options.refuseInbound;
    this.#known = new KnownWorkloads(() => this.#addresses.values(), options.workloads);
    this.#nameservers = options.nameservers ?? systemNameservers();
    const dns = parseDnsTable(options.dns);
    this.#state = new WorkloadState({
      log,
      sharedNetnsAllowed: options.allow.includes("shared-netns"),
      startPod: (pod) => this.#startPod(pod, dns),
    });
    this.#link = new ZdsLink({
      path: options.socket,
      state: this.#state,
      log,
      faults: () => this.#faults,
      allow: new Set(options.allow),
      maxBackoffMs: options.maxBackoffMs,
      retryMs: options.retryMs,
      onfatal,
    });
  }

  get faults(): Faults {
    return this.#faults;
  }

  start(): void {
    this.#link.start();
  }

  /** Replaces all faults. @throws RangeError */
  setFaults(switches: readonly string[]): void {
    this.#faults = parseFaults(switches);
  }

  setRefuseInbound(on: boolean): void {
    this.#refuseInbound = on;
  }

  /** Replaces what is known of the mesh; undefined: the pods held here. */
  setWorkloads(list: readonly KnownWorkload[] | undefined): void {
    this.#known.set(list);
  }

  /** Drops the connection to the agent and makes a new one. */
  reconnect(): void {
    this.#link.reconnect();
  }

  /** Sends bytes to the agent that nobody asked for. */
  sendRaw(bytes: Uint8Array): void {
    this.#link.sendRaw(bytes);
  }

  /**
   * Leaves the agent and closes the pods' listeners, both at once and for good; resolves when the last open connection has
   * ended, or ztunnel's patience with them.
   */
  async drain(): Promise<void> {
    this.#draining = true;
    this.#link.stop();
    for (const proxy of this.#proxies.values()) proxy.drain();
    const end = performance.now() + this.#options.terminationMs;
    const isBusy = ({ counters }: PodProxy): boolean => counters.openConnections > 0;
    while (performance.now() < end && [...this.#proxies.values()].some(isBusy)) await delay(drainPollMs);
    this.close();
  }

  /** Lets go of everything. */
  close(): void {
    this.#link.stop();
    this.#state.close();
  }

  stats(): StandInStats {
    return {
      ready: this.#state.ready,
      connected: this.#link.connected,
      connections: this.#link.connections,
      readFailures: this.#link.readFailures,
      openFds: readdirSync("/proc/self/fd").length - 1,
      pending: this.#state.pendingUids,
      workloads: Object.fromEntries(this.#state.pods.map((pod) => [pod.uid, this.#workloadStats(pod)])),
    };
  }

  #workloadStats({ uid, info, netns }: PodDescription): WorkloadStats {
    const proxy = this.#proxies.get(uid);
    const counters = proxy?.counters.read();
    return {
      dev: netns.dev,
      ino: netns.ino,
      info,
      addresses: this.#addresses.get(uid) ?? [],
      ports: counters?.ports ?? {},
      dnsQueries: counters?.dnsQueries ?? 0,
      openConnections: counters?.openConnections ?? 0,
      hbone: proxy?.hboneConnections ?? { outbound: 0, inbound: 0 },
    };
  }

  async #startPod(pod: PodDescription, dns: ReadonlyMap<string, readonly string[]>): Promise<RunningPod> {
    const nack = this.#faults.nack;
    if (nack !== undefined && nack.left > 0) {
      nack.left--;
      throw new StartError(nack.text);
    }
    if (this.#options.depth === "protocol") return { stop() {} };
    const loopback = await loopbackState(pod.netns.fd).catch(() => undefined);
    if (this.#draining) throw new StartError("shutting down");
    const proxy = new PodProxy(pod, {
      log: this.#log,
      reusePort: !this.#faults.noReusePort,
      loopbackIpv6: loopback?.ipv6Disabled !== true,
      ipv6: hasIpv6(),
      dns,
      nameservers: this.#nameservers,
      hbone: this.#options.hbone,
      refuseInbound: () => this.#refuseInbound,
      known: this.#known,
    });
    this.#proxies.set(pod.uid, proxy);
    this.#addresses.set(pod.uid, await podAddresses(pod.netns.fd));
    return { stop: () => this.#stopPod(pod.uid, proxy) };
  }

  #stopPod(uid: string, proxy: PodProxy): void {
    proxy.stop();
    if (this.#proxies.get(uid) !== proxy) return;
    this.#proxies.delete(uid);
    this.#addresses.delete(uid);
  }
}
