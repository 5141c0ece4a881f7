// SPDX-License-Identifier: Apache-2.0
// The one server behind every port and stream socket of the agent: what a client does costs its own connection, and so many of them.
import { once } from "node:events";
import { createServer as createHttpServer, type Server as HttpServer, type RequestListener } from "node:http";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import type { Logger } from "../log/logger.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { Seldom } from "../loop/seldom.ts";
import { type Descriptors, ownDescriptors } from "./descriptors.ts";
import { Doorkeeper } from "./doorkeeper.ts";
import { Exchange } from "./exchange.ts";
import { withoutMapping } from "./peer.ts";
import { type PlaceLimits, Places } from "./places.ts";
import { Visit, type VisitLimits } from "./visit.ts";

/** Bounds of a port. */
export interface PortLimits extends PlaceLimits, VisitLimits {}

export interface LimitedServerOptions {
  /** What it is, for the log: "the health port". */
  readonly what: string;
  /** Makes the answer; the request is there as a whole. */
  readonly handler: RequestListener;
  readonly limits: PortLimits;
  readonly log: Logger;
  /** Who has none of the reserve. Default: this process'; "all": pods wait for what is served here, it may use up the last one. */
  readonly descriptors?: Descriptors | "all";
  readonly clock?: Clock | undefined;
}

/** Bounded by the kernel's somaxconn: a burst of connections waits here and not in the sender's next try, a second later. */
const backlog = 4096;

/** Serves one request per connection; connections come through any number of doors, and share one set of places. */
export class LimitedServer {
  readonly #options: LimitedServerOptions;
  readonly #places: Places;
  readonly #descriptors: Descriptors | undefined;
  readonly #clock: Clock;
  /** Never listens: it is given one request at a time. */
  readonly #http: HttpServer;
  readonly #doors = new Set<Server>();
  readonly #visits = new Set<Visit>();
  readonly #refusals: Seldom;
  readonly #failures: Seldom;

  constructor(options: LimitedServerOptions) {
    const { limits, handler, descriptors, clock } = options;
    this.#options = options;
    this.#places = new Places(limits);
    this.#descriptors = descriptors === "all" ? undefined : (descriptors ?? ownDescriptors());
    this.#clock = clock ?? systemClock;
    this.#refusals = new Seldom({ clock });
    this.#failures = new Seldom({ clock });
    this.#http = createHttpServer(
      { maxHeaderSize: limits.maxHeadBytes, keepAliveTimeout: 0 },
      (request, response) => {
        response.shouldKeepAlive = false;
        // without a listener a client that leaves in the middle would end the process
        response.on("error", () => {});
        handler(request, response);
      },
    );
  }

  /** Connections with a place. */
  get connectionCount(): number {
    return this.#places.count;
  }

  /** A server that does not listen yet: whoever opens it gives it a path or a port. From then on it is closed with this one. */
  door(): Server {
    const blockList = new Doorkeeper((address) => this.#refuses(address));
    const options = { allowHalfOpen: true, pauseOnConnect: true, noDelay: true, blockList };
    const door = createServer(options, (socket) => this.#admit(socket));
    // from then on: whoever opens it hears of what keeps it from that
    door.once("listening", () => {
      this.#doors.add(door);
      door.on("error", (error) => this.#failed(error));
    });
    door.once("close", () => this.#doors.delete(door));
    return door;
  }

  /** Opens a port on every address. @param port 0 takes any free one @returns the port in use @throws Error (EADDRINUSE, EACCES, …) */
  async listenOn(port: number): Promise<number> {
    const door = this.door();
    door.listen({ port, backlog });
    await once(door, "listening");
    return (door.address() as AddressInfo).port;
  }

  /** Stops; connections are cut. */
  async close(): Promise<void> {
    const closed = this.#closeDoors();
    for (const visit of this.#visits) visit.cut();
    await closed;
  }

  /** Stops accepting; resolves when the requests under way are answered. */
  async finish(): Promise<void> {
    const closed = this.#closeDoors();
    for (const visit of this.#visits) if (visit.isSilent) visit.cut();
    await closed;
  }

  async #closeDoors(): Promise<void> {
    const doors = Array.from(this.#doors);
    await Promise.all(doors.map((door) => new Promise<void>((done) => door.close(() => done()))));
  }

  /** Before anything is made for it, which is what a flood of connections costs. */
  #refuses(address: string): boolean {
    const isRefused = this.#places.isFull(withoutMapping(address));
    if (isRefused) this.#turnAway();
    return isRefused;
  }

  #admit(socket: Socket): void {
    // without a listener a client that leaves in the middle would end the process
    socket.on("error", () => {});
    const visit = new Visit(socket, {
      limits: this.#options.limits,
      clock: this.#clock,
      ongone: () => {
        this.#visits.delete(visit);
        this.#places.leave(visit);
      },
      onmaderoom: () => this.#turnAway(),
      onrequest: (bytes) => this.#http.emit("connection", new Exchange(socket, bytes)),
    });
    const isShort = !visit.isOwn && this.#descriptors?.take() === false;
    if (isShort || !this.#places.enter(visit)) {
      this.#turnAway();
      visit.cut();
      return;
    }
    this.#visits.add(visit);
    visit.begin();
  }

  /** A connection could not be accepted, as little as the next one. */
  #failed(error: Error): void {
    const { what, log } = this.#options;
    const count = this.#failures.count();
    if (count !== undefined) log.error({ count, err: error }, `${what} cannot accept connections`);
  }

  /** Whoever floods a port must not flood the log. */
  #turnAway(): void {
    const { what, log, limits } = this.#options;
    const count = this.#refusals.count();
    if (count !== undefined)
      log.warn(
        { count, places: limits.places },
        `${what} has more clients than it takes: those that say nothing are closed first`,
      );
  }
}
