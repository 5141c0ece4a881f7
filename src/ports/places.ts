// SPDX-License-Identifier: Apache-2.0
// Who finds a place at a port: bounds in all and for each peer, places that only the node itself takes, and who makes room.

/** How many may be there at a time. */
export interface PlaceLimits {
  /** In all. */
  readonly places: number;
  /** Of one peer that is not the node itself. */
  readonly perPeer: number;
  /** Of `places`, those that only the node itself can take; default 0. */
  readonly ownPlaces?: number;
}

/** Somebody with a place, or at the door. */
export interface Visitor {
  /** Whom the bound per peer counts as one, an address for example; undefined: there is no telling, none is counted. */
  readonly peer: string | undefined;
  /** The node itself: the kubelet, or a program on the loopback address. */
  readonly isOwn: boolean;
  /** It has not said yet what it wants: nothing is lost when it makes room. */
  readonly isWaiting: boolean;
  /** It is to go, and has lost its place already. */
  makeRoom(): void;
}

/**
 * The places of a port. A peer that has all it may have is refused more. Who else comes and finds the places taken gets that of the one
 * who has been silent for longest: a client that says at once what it wants is hardly ever the one who goes. Pure but for `makeRoom`.
 */
export class Places {
  readonly #limits: Required<PlaceLimits>;
  /** In the order of coming. */
  readonly #visitors = new Set<Visitor>();
  readonly #byPeer = new Map<string, number>();
  #ownCount = 0;

  /** @throws RangeError where the node's own places leave none to others, or a bound is no count */
  constructor(limits: PlaceLimits) {
    this.#limits = { ownPlaces: 0, ...limits };
    const { places, perPeer, ownPlaces } = this.#limits;
    if (!(places > ownPlaces && ownPlaces >= 0 && perPeer > 0))
      throw new RangeError(
        `Cannot share ${places} places: ${ownPlaces} for the node itself, ${perPeer} per peer`,
      );
  }

  /** Taken places. */
  get count(): number {
    return this.#visitors.size;
  }

  /** Whether a peer that is not the node itself has all it may have. */
  isFull(peer: string | undefined): boolean {
    return peer !== undefined && (this.#byPeer.get(peer) ?? 0) >= this.#limits.perPeer;
  }

  /** Gives a place, if need be that of another who is still silent. @returns false when nobody can make room */
  enter(visitor: Visitor): boolean {
    if (!this.#hasRoomFor(visitor)) return false;
    this.#visitors.add(visitor);
    this.#count(visitor, 1);
    return true;
  }

  /** Gives a place back; nothing happens when it is gone already. */
  leave(visitor: Visitor): void {
    if (this.#visitors.delete(visitor)) this.#count(visitor, -1);
  }

  #hasRoomFor({ peer, isOwn }: Visitor): boolean {
    const { places, ownPlaces } = this.#limits;
    if (!isOwn && this.isFull(peer)) return false;
    const others = this.#visitors.size - this.#ownCount;
    if (!isOwn && others >= places - ownPlaces) return this.#clear((other) => !other.isOwn);
    if (this.#visitors.size < places) return true;
    // the node's own go before others, who have what is left of the places to themselves
    return this.#clear((other) => !other.isOwn) || (isOwn && this.#clear((other) => other.isOwn));
  }

  /** @returns whether there was one to go */
  #clear(isMeant: (visitor: Visitor) => boolean): boolean {
    for (const visitor of this.#visitors) {
      if (!visitor.isWaiting || !isMeant(visitor)) continue;
      this.leave(visitor);
      visitor.makeRoom();
      return true;
    }
    return false;
  }

  #count({ peer, isOwn }: Visitor, by: 1 | -1): void {
    if (isOwn) this.#ownCount += by;
    else if (peer !== undefined) {
      const count = (this.#byPeer.get(peer) ?? 0) + by;
      if (count === 0) this.#byPeer.delete(peer);
      else this.#byPeer.set(peer, count);
    }
  }
}
