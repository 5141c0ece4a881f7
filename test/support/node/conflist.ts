// SPDX-License-Identifier: Apache-2.0
// Network configurations of a test node: Debian's bridge and host-local plugins, with or without our launcher chained after.
import { existsSync } from "node:fs";

/** One entry of a conflist's `plugins`. */
export interface PluginConfig {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [key: string]: unknown;
}

/** A network configuration list. Source: CNI spec 1.1.0, section 1. */
export interface Conflist {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: readonly PluginConfig[];
}

/** What may differ between two networks of a node. */
export interface BridgeConflistOptions {
  /** Default "podnet". Also separates address leases. */
  readonly name?: string;
  /** Default "1.0.0", the newest that Debian 12's plugins speak. */
  readonly cniVersion?: string;
  /** Name of the bridge, default "cni0". */
  readonly bridge?: string;
  /** Default 10.210.0.0/16; null for a network without IPv4. */
  readonly subnetV4?: string | null;
  /** Default fd10:210::/64, or null where the kernel has no IPv6; null for a network without it. */
  readonly subnetV6?: string | null;
  /** Folder for the address leases. */
  readonly leaseDir: string;
  /** Entries after the bridge, such as {@link ambientPlugin}. */
  readonly chained?: readonly PluginConfig[];
}

function defaultSubnetV6(): string | null {
  return existsSync("/proc/sys/net/ipv6") ? "fd10:210::/64" : null;
}

/** Makes the conflist of a bridge, dual-stack unless told otherwise, whose pods have a default route and reach each other and the node. */
export function bridgeConflist(options: BridgeConflistOptions): Conflist {
  const { name = "podnet", cniVersion = "1.0.0", bridge = "cni0" } = options;
  const { chained = [] } = options;
  const subnetV4 = options.subnetV4 === undefined ? "10.210.0.0/16" : options.subnetV4;
  const subnetV6 = options.subnetV6 === undefined ? defaultSubnetV6() : options.subnetV6;
  const subnets = [subnetV4, subnetV6].filter((subnet) => subnet !== null);
  const ranges = subnets.map((subnet) => [{ subnet }]);
  const routes = subnets.map((subnet) => ({ dst: subnet.includes(":") ? "::/0" : "0.0.0.0/0" }));
  const ipam = { type: "host-local", dataDir: options.leaseDir, ranges, routes };
  return {
    cniVersion,
    name,
    plugins: [{ type: "bridge", bridge, isGateway: true, hairpinMode: true, ipam }, ...chained],
  };
}

/** What our entry in a conflist may say. */
export interface AmbientPluginOptions {
  readonly runDir?: string;
  readonly agentWaitSeconds?: number;
  /** Namespaces, or `namespace/pod-name-prefix`, that may start without the agent. */
  readonly exempt?: readonly string[];
}

/** Makes our launcher's entry of a conflist. */
export function ambientPlugin(options: AmbientPluginOptions = {}): PluginConfig {
  return {
    type: "ambient-cni",
    ...(options.runDir === undefined ? {} : { cni_agent_run_dir: options.runDir }),
    ...(options.agentWaitSeconds === undefined ? {} : { agent_wait_seconds: options.agentWaitSeconds }),
    ...(options.exempt === undefined ? {} : { exempt: options.exempt }),
  };
}

/** The network that containerd adds to every sandbox by itself. Source: containerd/go-cni opts.go, WithLoNetwork. */
export const LOOPBACK_CONFLIST: Conflist = {
  cniVersion: "0.3.1",
  name: "cni-loopback",
  plugins: [{ type: "loopback" }],
};
