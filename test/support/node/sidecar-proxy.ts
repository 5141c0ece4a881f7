// SPDX-License-Identifier: Apache-2.0
// A sidecar's proxy as a pod's rules see it, served by module-host.ts from inside the pod: the ports of Istio's with HTTP passed on to
// where its Host field says, by the proxy's own user. What it knows of the way is the connection it was given, nothing of rules.
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import type { Endpoint } from "./pod-app.ts";

/** A connection that was led here and passed on. */
export interface CarriedConnection {
  readonly port: 15001 | 15006;
  /** Who opened it. */
  readonly peer: Endpoint;
  /** `ADDRESS:PORT`, IPv6 in brackets: where it was passed on to. */
  readonly to: string;
}

/** From where inbound connections are opened, by which rules know them. Source: istio/istio pilot, InboundPassthroughCluster. */
const passthrough = { 4: "127.0.0.6", 6: "::6" } as const;
const longestHead = 16_384;
const carried: CarriedConnection[] = [];

/** Listens on 15001, 15006, 15021 and 15090 on both families, and is this user from then on. */
export async function serveSidecar(user: { readonly uid: number; readonly gid: number }): Promise<void> {
  for (const port of [15001, 15006] as const) await listen(port, (socket) => passOn(port, socket));
  for (const port of [15021, 15090]) await listen(port, answerOk);
  // the files of this program may be root's alone, so that it becomes another only now
  process.setgroups?.([]);
  process.setgid?.(user.gid);
  process.setuid?.(user.uid);
}

/** All connections so far, oldest first. */
export function carriedConnections(): CarriedConnection[] {
  return carried;
}

async function listen(port: number, take: (socket: Socket) => void): Promise<void> {
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    take(socket);
  }).listen(port, "::");
  await once(server, "listening");
}

function passOn(port: 15001 | 15006, client: Socket): void {
  const peer = { address: plain(client.remoteAddress), port: client.remotePort ?? 0 };
  let head = "";
  const read = (chunk: Buffer): void => {
    head += chunk.toString("latin1");
    const to = /\r\nhost: *(\S+)\r\n/i.exec(head)?.[1];
    if (to === undefined) {
      if (head.length > longestHead || head.includes("\r\n\r\n")) client.destroy();
      return;
    }
    client.off("data", read).pause();
    carried.push({ port, peer, to });
    const { hostname, port: toPort } = new URL(`http://${to}`);
    const host = hostname.replace(/^\[|\]$/g, "");
    const from = port === 15006 ? { localAddress: passthrough[host.includes(":") ? 6 : 4] } : {};
    const server = connect({ host, port: Number(toPort || 80), ...from });
    server.on("error", () => client.destroy());
    client.on("close", () => server.destroy());
    server.write(head, "latin1");
    client.pipe(server).pipe(client);
  };
  client.on("data", read);
}

/** As the kubelet's probes and Prometheus ask these ports: they are no traffic of the app's. */
function answerOk(socket: Socket): void {
  socket.once("data", () =>
    socket.end("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
  );
}

function plain(address = ""): string {
  return address.replace(/^::ffff:/, "");
}
