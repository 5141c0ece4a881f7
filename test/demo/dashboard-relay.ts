// SPDX-License-Identifier: Apache-2.0
// Brings the dashboard of a node to a browser outside: loopback of the machine -> Unix socket in the node -> loopback of the node.
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from "node:net";
import { pipeline } from "node:stream";

/** One end of the relay. Bytes pass as they are, so the server at the end sees who asks, and under which name. */
export class DashboardRelay implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(dial: () => Promise<Socket | undefined>) {
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      this.#keep(socket);
      dial().then(
        (onward) => {
          if (onward === undefined || socket.destroyed) socket.destroy();
          else this.#join(socket, onward);
        },
        () => socket.destroy(),
      );
    });
  }

  /** In the node: from a Unix socket to a port of the node's loopback address. @throws Error (EADDRINUSE, …) */
  static async inside(path: string, port: number): Promise<DashboardRelay> {
    const relay = new DashboardRelay(async () =>
      createConnection({ host: "127.0.0.1", port, allowHalfOpen: true }),
    );
    await relay.#listen({ path });
    return relay;
  }

  /**
   * On the machine: from its loopback address, and no other, to the Unix socket.
   *
   * @param port 0 takes any free one.
   * @param findSocket asked for each connection; undefined: there is none now.
   * @throws Error (EADDRINUSE, …)
   */
  static async outside(port: number, findSocket: () => Promise<string | undefined>): Promise<DashboardRelay> {
    const relay = new DashboardRelay(async () => {
      const path = await findSocket();
      return path === undefined ? undefined : createConnection({ path, allowHalfOpen: true });
    });
    await relay.#listen({ host: "127.0.0.1", port });
    return relay;
  }

  /** Of the end on the machine. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  async #listen(where: { path: string } | { host: string; port: number }): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once("error", reject);
    this.#server.listen(where, resolve);
    await promise;
    this.#server.off("error", reject);
  }

  #join(socket: Socket, onward: Socket): void {
    this.#keep(onward);
    // whoever breaks off takes the other one along
    pipeline(socket, onward, () => {});
    pipeline(onward, socket, () => {});
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => this.#sockets.delete(socket));
  }
}
