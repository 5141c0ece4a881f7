// SPDX-License-Identifier: Apache-2.0
// Which of ztunnel's ports are listened on inside a pod's network namespace, asked from the kernel.
import { allDone } from "../loop/all-done.ts";
import { visitSockets } from "./netlink/inet-diag.ts";

/** A port of ztunnel's in a pod. */
export interface ZtunnelSocket {
  readonly port: 15001 | 15006 | 15008 | 15053;
  readonly protocol: "tcp" | "udp";
  readonly listening: boolean;
}

/** What ztunnel opens in a captured pod; DNS only with DNS capture. Source: istio/ztunnel src/proxy, src/dns/server.rs. */
export const ZTUNNEL_SOCKETS: readonly Omit<ZtunnelSocket, "listening">[] = [
  { port: 15001, protocol: "tcp" },
  { port: 15006, protocol: "tcp" },
  { port: 15008, protocol: "tcp" },
  { port: 15053, protocol: "tcp" },
  { port: 15053, protocol: "udp" },
];

/**
 * Looks at ztunnel's ports in a namespace; a socket of either family counts. The descriptor may be closed as soon as the
 * call returns.
 * @throws NetlinkError or NativeError; NetlinkError ENOENT when the kernel has no socket diagnosis (modules tcp_diag, udp_diag)
 */
export async function listeningSockets(netnsFd: number): Promise<ZtunnelSocket[]> {
  const open = new Set<string>();
  await allDone([
    visitSockets(netnsFd, { protocol: "tcp", states: ["listen"] }, ({ local }) =>
      open.add(`tcp ${local.port}`),
    ),
    // of UDP's two states the one of a socket that is bound and not connected
    visitSockets(netnsFd, { protocol: "udp", states: ["close"] }, ({ local }) =>
      open.add(`udp ${local.port}`),
    ),
  ]);
  return ZTUNNEL_SOCKETS.map((socket) => ({
    ...socket,
    listening: open.has(`${socket.protocol} ${socket.port}`),
  }));
}
