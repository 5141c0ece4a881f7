// SPDX-License-Identifier: Apache-2.0
// A relay between a client and a server that does, on demand, what a proxy or a kernel may do to a connection.
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

/**
 * What becomes of the next bytes: `end` and `reset` come instead of a request, `cut` within an answer; `mute` forgets them.
 * `end-once` does so for one request and goes on with `forward`.
 */
export type RelayManner = "forward" | "end" | "end-once" | "reset" | "cut" | "mute";

/** Relays connections to a port of this machine. */
export class BadRelay {
  manner: RelayManner = "forward";
  /** Connections accepted so far. */
  accepted = 0;
  readonly #server: Server;
  readonly #clients = new Set<Socket>();
  readonly #target: number;

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer((client) => this.#relay(client));
  }

  static async start(target: number): Promise<BadRelay> {
    const relay = new BadRelay(target);
    relay.#server.listen(0, "127.0.0.1");
    await once(relay.#server, "listening");
    return relay;
  }

  get port(): number {
    const address = this.#server.address();
    if (typeof address !== "object" || address === null) throw new Error("the relay does not listen");
    return address.port;
  }

  /** Ends every connection in order. */
  endAll(): void {
    for (const client of this.#clients) client.end();
  }

  /** Takes no new connections. */
  async refuse(): Promise<void> {
    this.#server.close();
    for (const client of this.#clients) client.destroy();
    await once(this.#server, "close");
  }

  close(): void {
    this.#server.close();
    for (const client of this.#clients) client.destroy();
  }

  #relay(client: Socket): void {
    this.accepted += 1;
    this.#clients.add(client);
    const server = connect({ host: "127.0.0.1", port: this.#target });
    client.on("error", () => {});
    server.on("error", () => {});
    client.on("close", () => {
      this.#clients.delete(client);
      server.destroy();
    });
    server.on("close", () => client.destroy());
    client.on("data", (data) => {
      if (this.manner === "end" || this.manner === "end-once") {
        if (this.manner === "end-once") this.manner = "forward";
        client.end();
      } else if (this.manner === "reset") client.resetAndDestroy();
      else if (this.manner !== "mute") server.write(data);
    });
    server.on("data", (data) => {
      if (this.manner === "cut") client.end(data.subarray(0, 5));
      else if (this.manner !== "mute") client.write(data);
    });
  }
}
