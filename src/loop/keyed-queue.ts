// SPDX-License-Identifier: Apache-2.0
// Runs one function per key: never twice at once for a key, a bounded number of keys at once, requests coalesced.
import { type Clock, systemClock, type Timer } from "./clock.ts";

export interface KeyedQueueOptions<R> {
  readonly concurrency: number;
  /** Called with the key; its result goes to those who wait for this run. */
  readonly run: (key: string) => Promise<R>;
  /** For `requestAfter`; it is asked for nothing else, and a run begins and ends without it. Default: the machine's. */
  readonly clock?: Clock;
}

interface Slot<R> {
  running: boolean;
  /** Set while another run is asked for: those who wait for it share its outcome. */
  next: PromiseWithResolvers<R> | undefined;
  timer: Timer | undefined;
}

/** A level-triggered work queue: a request says that a key should be looked at, not what changed. */
export class KeyedQueue<R> {
  readonly #options: KeyedQueueOptions<R>;
  readonly #clock: Clock;
  readonly #slots = new Map<string, Slot<R>>();
  readonly #ready: string[] = [];
  #running = 0;
  #stopped = false;
  #idle: PromiseWithResolvers<void> | undefined;

  constructor(options: KeyedQueueOptions<R>) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Asks for a run that begins after this call; its failure is nobody's unless someone waits with `run`. */
  request(key: string): void {
    this.run(key).catch(() => {});
  }

  /** Asks for a run that begins after this call and waits for it. */
  run(key: string): Promise<R> {
    if (this.#stopped) return Promise.reject(new Error("the agent is stopping"));
    const slot = this.#slot(key);
    slot.timer?.cancel();
    slot.timer = undefined;
    if (slot.next === undefined) {
      slot.next = Promise.withResolvers();
      if (!slot.running) this.#ready.push(key);
    }
    const { promise } = slot.next;
    this.#pump();
    return promise;
  }

  /** Asks for a run in a while, unless one is asked for before. */
  requestAfter(key: string, delayMs: number): void {
    if (this.#stopped) return;
    const slot = this.#slot(key);
    if (slot.next !== undefined) return;
    slot.timer?.cancel();
    slot.timer = this.#clock.after(delayMs, () => this.request(key));
  }

  /** Drops what is only planned and refuses new requests; resolves when nothing runs any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#ready.length = 0;
    for (const [key, slot] of this.#slots) {
      slot.timer?.cancel();
      slot.next?.reject(new Error("the agent is stopping"));
      slot.next = undefined;
      if (!slot.running) this.#slots.delete(key);
    }
    if (this.#running === 0) return;
    this.#idle ??= Promise.withResolvers();
    await this.#idle.promise;
  }

  #slot(key: string): Slot<R> {
    let slot = this.#slots.get(key);
    if (slot === undefined) {
      slot = { running: false, next: undefined, timer: undefined };
      this.#slots.set(key, slot);
    }
    return slot;
  }

  #pump(): void {
    while (this.#running < this.#options.concurrency) {
      const key = this.#ready.shift();
      if (key === undefined) return;
      void this.#start(key);
    }
  }

  async #start(key: string): Promise<void> {
    const slot = this.#slot(key);
    const current = slot.next;
    if (current === undefined) return;
    // nobody may be waiting: the function reports its own failures
    current.promise.catch(() => {});
    slot.next = undefined;
    slot.running = true;
    this.#running++;
    try {
      current.resolve(await this.#options.run(key));
    } catch (error) {
      current.reject(error);
    }
    slot.running = false;
    this.#running--;
    if (slot.next !== undefined) this.#ready.push(key);
    else if (slot.timer === undefined) this.#slots.delete(key);
    if (this.#running === 0) this.#idle?.resolve();
    this.#pump();
  }
}
