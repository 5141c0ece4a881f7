// SPDX-License-Identifier: Apache-2.0
// What runs inside the node of a PrivateApiServer: the control plane, and a socket that leads out of its network namespace.
import { connect, createServer } from "node:net";
import { requireNode } from "../../support/node/inside.ts";
import { apiPort, ControlPlane } from "../support/control-plane.ts";

const { scratch } = requireNode();
let plane: ControlPlane | undefined;

/** Starts etcd and the API server; returns paths inside the node. */
export async function start(binDir: string): Promise<{ certificates: string; socket: string }> {
  plane = await ControlPlane.start({ binDir, scratch, nodeName: "n1", nodeAddress: "127.0.0.1" });
  const socket = `${scratch}/api.sock`;
  const server = createServer({ allowHalfOpen: true }, (outer) => {
    const inner = connect({ host: "127.0.0.1", port: apiPort, allowHalfOpen: true });
    outer.pipe(inner);
    inner.pipe(outer);
    // a server that refuses is seen as a connection that breaks
    inner.on("error", () => outer.destroy());
    outer.on("error", () => inner.destroy());
    inner.on("close", () => outer.destroySoon());
    outer.on("close", () => inner.destroySoon());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socket, resolve);
  });
  return { certificates: plane.certificates, socket };
}

export async function killApiServer(): Promise<void> {
  await plane?.killApiServer();
}

export async function startApiServer(): Promise<void> {
  await plane?.startApiServer();
}

export async function compact(): Promise<void> {
  await plane?.compact();
}
