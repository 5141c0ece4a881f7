// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { Places, type Visitor } from "../../src/ports/places.ts";

class Guest implements Visitor {
  readonly peer: string | undefined;
  readonly isOwn: boolean;
  isWaiting: boolean;
  isSentAway = false;

  constructor(peer: string | undefined, { isOwn = false, isWaiting = true } = {}) {
    this.peer = peer;
    this.isOwn = isOwn;
    this.isWaiting = isWaiting;
  }

  makeRoom(): void {
    this.isSentAway = true;
  }
}

const own = { isOwn: true } as const;
const busy = { isWaiting: false } as const;

/** Lets so many in, each of a peer of its own. */
function enterMany(places: Places, count: number, options = {}): Guest[] {
  const guests = Array.from({ length: count }, (_, at) => new Guest(`peer-${at}`, options));
  for (const guest of guests) expect(places.enter(guest)).toBe(true);
  return guests;
}

describe("Places", () => {
  test("a peer with all it may have is refused, however silent its others are, and other peers are not", () => {
    const places = new Places({ places: 10, perPeer: 2 });
    const first = new Guest("a");
    for (const guest of [first, new Guest("a")]) expect(places.enter(guest)).toBe(true);
    expect([places.isFull("a"), places.isFull("b")]).toEqual([true, false]);
    expect(places.enter(new Guest("a"))).toBe(false);
    expect(first.isSentAway).toBe(false);
    expect(places.enter(new Guest("b"))).toBe(true);
    places.leave(first);
    places.leave(first);
    expect([places.enter(new Guest("a")), places.isFull("a"), places.count]).toEqual([true, true, 3]);
  });

  test("who comes when all is taken gets the place of the one silent for longest", () => {
    const places = new Places({ places: 3, perPeer: 3 });
    const [answered, silent, later] = enterMany(places, 3) as [Guest, Guest, Guest];
    answered.isWaiting = false;
    const newcomer = new Guest("new");
    expect(places.enter(newcomer)).toBe(true);
    expect([answered, silent, later].map(({ isSentAway }) => isSentAway)).toEqual([false, true, false]);
    expect(places.count).toBe(3);
    newcomer.isWaiting = false;
    later.isWaiting = false;
    expect(places.enter(new Guest("late"))).toBe(false);
    expect(places.count).toBe(3);
  });

  test("others never take the node's own places, and the node itself may take them all", () => {
    const places = new Places({ places: 6, ownPlaces: 4, perPeer: 9 });
    const others = enterMany(places, 2, busy);
    expect(places.enter(new Guest("x"))).toBe(false);
    for (let i = 0; i < 4; i++) expect(places.enter(new Guest("::1", own))).toBe(true);
    expect(others.some(({ isSentAway }) => isSentAway)).toBe(false);
    expect(places.isFull("::1")).toBe(false);
  });

  test("the node itself crowds out others before its own, and others never crowd out the node", () => {
    const places = new Places({ places: 3, ownPlaces: 1, perPeer: 9 });
    const [other] = enterMany(places, 1) as [Guest];
    const mine = [new Guest("::1", own), new Guest("::1", own)];
    for (const guest of mine) places.enter(guest);
    expect(places.enter(new Guest("::1", own))).toBe(true);
    expect([other.isSentAway, mine[0]?.isSentAway]).toEqual([true, false]);
    expect(places.enter(new Guest("x"))).toBe(false);
    expect(places.enter(new Guest("::1", own))).toBe(true);
    expect(mine.map(({ isSentAway }) => isSentAway)).toEqual([true, false]);
  });

  test("whom nobody can tell apart has no bound of its own", () => {
    const places = new Places({ places: 4, perPeer: 1 });
    for (let i = 0; i < 4; i++) expect(places.enter(new Guest(undefined, busy))).toBe(true);
    expect([places.isFull(undefined), places.enter(new Guest(undefined))]).toEqual([false, false]);
  });

  test.each([
    { places: 4, ownPlaces: 4, perPeer: 1 },
    { places: 4, ownPlaces: -1, perPeer: 1 },
    { places: 0, perPeer: 1 },
    { places: 4, perPeer: 0 },
    { places: Number.NaN, perPeer: 1 },
  ])("%j is refused", (limits) => {
    expect(() => new Places(limits)).toThrow(RangeError);
  });
});
