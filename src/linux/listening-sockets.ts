// SPDX-License-Identifier: Apache-2.0
// Which of ztunnel's ports are listened on inside a pod's network namespace, asked from the kernel.
import { read } from "./netlink/exchange.ts";
import { type NetlinkAnswer, type NetlinkRequest, NLM, viewOf } from "./netlink/message.ts";

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

// Source: sock_diag(7); linux/inet_diag.h, linux/sock_diag.h; include/net/tcp_states.h.
const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const REQUEST_BYTES = 56;
const AF_INET = 2;
const AF_INET6 = 10;
const PROTOCOL_NUMBERS = { tcp: 6, udp: 17 } as const;
/** TCP_LISTEN; of UDP's two states the one of a socket that is bound and not connected, TCP_CLOSE. */
const STATE_MASKS = { tcp: 1 << 10, udp: 1 << 7 } as const;
const SPORT_OFFSET = 4;

/**
 * Looks at ztunnel's ports in a namespace; a socket of either family counts. The descriptor may be closed as soon as the
 * call returns.
 * @throws NetlinkError or NativeError; Error when the kernel has no socket diagnosis (modules tcp_diag, udp_diag)
 */
export async function listeningSockets(netnsFd: number): Promise<ZtunnelSocket[]> {
  const asked = (["tcp", "udp"] as const).flatMap((protocol) =>
    [AF_INET, AF_INET6].map((family) => ({ protocol, family })),
  );
  const answers = await read(netnsFd, NETLINK_SOCK_DIAG, asked.map(encodeDump));
  const open = new Set<string>();
  for (const [index, { protocol, family }] of asked.entries()) {
    const answer = answers[index];
    // a kernel without IPv6 has no such sockets either
    if (answer?.error !== 0 && family === AF_INET6) continue;
    for (const port of decodePorts(answer, protocol)) open.add(`${protocol} ${port}`);
  }
  return ZTUNNEL_SOCKETS.map((socket) => ({
    ...socket,
    listening: open.has(`${socket.protocol} ${socket.port}`),
  }));
}

function encodeDump(socket: { protocol: "tcp" | "udp"; family: number }): NetlinkRequest {
  const body = new Uint8Array(REQUEST_BYTES);
  body[0] = socket.family;
  body[1] = PROTOCOL_NUMBERS[socket.protocol];
  viewOf(body).setUint32(4, STATE_MASKS[socket.protocol], true);
  return { type: SOCK_DIAG_BY_FAMILY, flags: NLM.dump, body };
}

function decodePorts(answer: NetlinkAnswer | undefined, protocol: "tcp" | "udp"): number[] {
  if (answer?.error !== 0) {
    throw new Error(
      `Cannot list the ${protocol} sockets of a network namespace: the kernel refused (${answer?.error ?? "no answer"}); load the module ${protocol}_diag on the node`,
    );
  }
  // network byte order; source: linux/inet_diag.h, struct inet_diag_sockid
  return answer.messages
    .filter(({ body }) => body.length >= SPORT_OFFSET + 2)
    .map(({ body }) => viewOf(body).getUint16(SPORT_OFFSET, false));
}
