// SPDX-License-Identifier: Apache-2.0
// The sockets ztunnel opens inside a pod: five addresses, each with its mark and options.
// Source: istio/ztunnel src/proxy.rs, src/inpod/config.rs, src/dns/server.rs.
import { closeSync } from "node:fs";
import { getSystemErrorMessage, getSystemErrorName } from "node:util";
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

/** Opens all of a pod's sockets or none. @throws StartError with ztunnel's words when one cannot be bound */
export function openPodSockets(netnsFd: number, { reusePort }: { reusePort: boolean }): PodSockets {
  const opened: number[] = [];
  const open = (options: NetnsSocketOptions): number => {
    const fd = socketInNetns(netnsFd, { ...options, reusePort, mark: ztunnelMark });
    opened.push(fd);
    return fd;
  };
  try {
    const tcp = new Map<number, number>();
    for (const port of [inboundHbonePort, inboundPlainPort, outboundPort])
      tcp.set(port, openAnyAddress(open, port));
    const dnsTcp: number[] = [];
    const dnsUdp: { fd: number; family: 4 | 6 }[] = [];
    for (const family of [4, 6] as const) {
      const local = { family, address: family === 4 ? "127.0.0.1" : "::1", port: dnsPort };
      try {
        dnsTcp.push(attempt(() => open({ ...local, type: "stream", backlog: 128 }), local));
        dnsUdp.push({ fd: attempt(() => open({ ...local, type: "dgram" }), local), family });
      } catch (error) {
        if (family === 4 || !lacksIpv6((error as Error).cause)) throw error;
      }
    }
    return { tcp, dnsTcp, dnsUdp };
  } catch (error) {
    for (const fd of opened) closeSync(fd);
    throw error;
  }
}

/** [::] serves both families; 0.0.0.0 where the namespace has no IPv6. */
function openAnyAddress(open: (options: NetnsSocketOptions) => number, port: number): number {
  const common = { type: "stream", port, transparent: true, backlog: 1024 } as const;
  try {
    return attempt(() => open({ ...common, family: 6, address: "::", v6only: false }), {
      address: "::",
      port,
    });
  } catch (error) {
    if (!lacksIpv6((error as Error).cause)) throw error;
    return attempt(() => open({ ...common, family: 4, address: "0.0.0.0" }), { address: "0.0.0.0", port });
  }
}

function lacksIpv6(error: unknown): boolean {
  return error instanceof NativeError && ["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes(error.code);
}

function attempt(open: () => number, { address, port }: { address: string; port: number }): number {
  try {
    return open();
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    const where = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
    const what = `code: ${-error.errno}, kind: ${getSystemErrorName(error.errno)}`;
    const message = getSystemErrorMessage(error.errno);
    throw new StartError(`Bind(Os { ${what}, message: "${message}" }, ${where})`, { cause: error });
  }
}
