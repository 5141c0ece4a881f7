// SPDX-License-Identifier: Apache-2.0
// The sockets ztunnel opens inside a pod: five addresses, each with its mark and options.
// Source: istio/ztunnel src/proxy.rs, src/inpod/config.rs, src/dns/server.rs; order and texts seen with the real one.
import { closeSync } from "node:fs";
import { NativeError, type NetnsSocketOptions, socketInNetns } from "../../../src/linux/native.ts";
import { StartError } from "./strictness.ts";

/** SO_MARK of everything ztunnel sends in a pod. */
export const ztunnelMark = 1337;
export const inboundHbonePort = 15008;
export const inboundPlainPort = 15006;
export const outboundPort = 15001;
export const dnsPort = 15053;

/** Descriptors of a pod's listening sockets. Whoever takes one out to give it to Node owns it from then on. */
export interface PodSockets {
  /** By port: 15008, 15006, 15001. */
  readonly tcp: ReadonlyMap<number, number>;
  readonly dnsTcp: readonly number[];
  readonly dnsUdp: readonly { readonly fd: number; readonly family: 4 | 6 }[];
}

/** As ztunnel has it. Node listens once more on a descriptor it is given, so it must be told too. */
export const backlog = 128;

/** How the sockets of a pod are opened. */
export interface PodSocketOptions {
  readonly reusePort: boolean;
  /** False when `net.ipv6.conf.lo.disable_ipv6` is 1 in the pod: no DNS on ::1 then. Nothing else counts as "no IPv6". */
  readonly loopbackIpv6: boolean;
  /** ztunnel's own setting IPV6_ENABLED, without which it does not start a pod on a kernel without IPv6. */
  readonly ipv6: boolean;
}

/**
 * Opens all of a pod's sockets or none, in ztunnel's order: DNS per address, then 15008, 15006, 15001 on [::], which serves
 * IPv4 too unless `net.ipv6.bindv6only` is 1 in the pod.
 * @throws StartError with ztunnel's words when one cannot be bound
 */
export function openPodSockets(netnsFd: number, options: PodSocketOptions): PodSockets {
  const { reusePort, ipv6, loopbackIpv6 } = options;
  const opened: number[] = [];
  const open = (options: NetnsSocketOptions & Bound): number => {
    const fd = attempt(options, () => socketInNetns(netnsFd, { ...options, reusePort, mark: ztunnelMark }));
    opened.push(fd);
    return fd;
  };
  try {
    const dnsTcp: number[] = [];
    const dnsUdp: { fd: number; family: 4 | 6 }[] = [];
    for (const family of ipv6 && loopbackIpv6 ? ([4, 6] as const) : ([4] as const)) {
      const local = { family, address: family === 4 ? "127.0.0.1" : "::1", port: dnsPort };
      dnsTcp.push(open({ ...local, type: "stream", backlog }));
      dnsUdp.push({ fd: open({ ...local, type: "dgram" }), family });
    }
    const tcp = new Map<number, number>();
    for (const port of [inboundHbonePort, inboundPlainPort, outboundPort]) {
      const everywhere = ipv6
        ? ({ family: 6, address: "::" } as const)
        : ({ family: 4, address: "0.0.0.0" } as const);
      tcp.set(port, open({ ...everywhere, port, type: "stream", transparent: true, backlog }));
    }
    return { tcp, dnsTcp, dnsUdp };
  } catch (error) {
    for (const fd of opened) closeSync(fd);
    throw error;
  }
}

interface Bound {
  readonly address: string;
  readonly port: number;
}

/** What Rust calls an error, and what the C library says of it. */
const errorWords: Readonly<Record<string, readonly [kind: string, message: string]>> = {
  EACCES: ["PermissionDenied", "Permission denied"],
  EADDRINUSE: ["AddrInUse", "Address already in use"],
  EADDRNOTAVAIL: ["AddrNotAvailable", "Cannot assign requested address"],
  EAFNOSUPPORT: ["Uncategorized", "Address family not supported by protocol"],
  EINVAL: ["InvalidInput", "Invalid argument"],
  EPERM: ["PermissionDenied", "Operation not permitted"],
};

function attempt({ address, port }: Bound, open: () => number): number {
  try {
    return open();
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    const where = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
    const [kind, message] = errorWords[error.code] ?? ["Uncategorized", error.code];
    const what = `code: ${-error.errno}, kind: ${kind}, message: "${message}"`;
    throw new StartError(`Bind(${where}, Os { ${what} })`, { cause: error });
  }
}
