// SPDX-License-Identifier: Apache-2.0
// A way to a server that can be cut, closed or silenced: connections from a port of ours to a unix socket.
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** Relays bytes between clients of a port on 127.0.0.1 and a unix socket. */
export class FaultyRelay {
  readonly #target: string;
  readonly #clients = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;
  #silent = false;

  private constructor(target: string) {
    this.#target = target;
  }

  static async start(target: string): Promise<FaultyRelay> {
    const relay = new FaultyRelay(target);
    await relay.listen();
    return relay;
  }

  /** The same over `refuse` and `listen`. */
  get port(): number {
    return this.#port;
  }

  /** Breaks all connections. */
  cut(): void {
    for (const socket of this.#clients) socket.resetAndDestroy();
  }

  /** Breaks all connections and refuses new ones until `listen`. */
  async refuse(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    const closed = new Promise<void>((resolve) => server?.close(() => resolve()) ?? resolve());
    this.cut();
    await closed;
  }

  /** Accepts connections (again). */
  async listen(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = createServer((client) => this.#accept(client));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(this.#port, "127.0.0.1", resolve);
    });
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** While true, connections stay open and nothing gets through, as behind a firewall that forgot them. */
  set silent(silent: boolean) {
    // what was held back would be heard after all; a firewall does not do that
    if (this.#silent && !silent) this.cut();
    this.#silent = silent;
  }

  #accept(client: Socket): void {
    this.#clients.add(client);
    const server = connect({ path: this.#target });
    client.on("data", (chunk) => this.#silent || server.write(chunk));
    server.on("data", (chunk) => this.#silent || client.write(chunk));
    client.on("error", () => client.destroy());
    server.on("error", () => server.destroy());
    client.on("close", () => {
      this.#clients.delete(client);
      server.destroy();
    });
    server.on("close", () => client.destroySoon());
  }
}
