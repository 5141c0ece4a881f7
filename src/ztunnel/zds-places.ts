// SPDX-License-Identifier: Apache-2.0
// How many ZDS connections there are at a time, and which one goes where that is too many.
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { Seldom } from "../loop/seldom.ts";
import { Places, type Visitor } from "../ports/places.ts";
import type { ZdsConnection } from "./zds-connection.ts";
import { ZdsError } from "./zds-error.ts";

/** A node has one ztunnel, and two for a while. Only root gets as far as this: there is no bound per peer. */
const places = 16;

/** A connection without a hello makes room for the next one; where all have said theirs, the next one is closed. */
export class ZdsPlaces {
  readonly #places = new Places({ places, perPeer: places });
  readonly #visitors = new Map<ZdsConnection, Visitor>();
  readonly #refusals: Seldom;
  readonly #log: Logger;

  constructor({ log, clock }: { readonly log: Logger; readonly clock: Clock }) {
    this.#log = log;
    this.#refusals = new Seldom({ clock });
  }

  /** Finds a place, or closes the connection. */
  enter(connection: ZdsConnection): void {
    const close = (): void => this.#close(connection);
    const visitor: Visitor = {
      peer: undefined,
      isOwn: false,
      get isWaiting() {
        return connection.phase === "hello";
      },
      makeRoom: close,
    };
    if (this.#places.enter(visitor)) this.#visitors.set(connection, visitor);
    else close();
  }

  /** Gives its place back; nothing happens when it has none. */
  leave(connection: ZdsConnection): void {
    const visitor = this.#visitors.get(connection);
    if (visitor !== undefined) this.#places.leave(visitor);
    this.#visitors.delete(connection);
  }

  #close(connection: ZdsConnection): void {
    const count = this.#refusals.count();
    if (count !== undefined)
      this.#log.warn(
        { count, places },
        "more ZDS connections than are taken: those without a hello end first",
      );
    connection.close(new ZdsError("CLOSED", "there are too many connections"));
  }
}
