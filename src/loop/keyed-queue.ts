// SPDX-License-Identifier: Apache-2.0
// Runs one function per key: never twice at once for a key, a bounded number of keys at once, requests coalesced. Who is waited for
// has places of its own.
import { type Clock, systemClock, type Timer } from "./clock.ts";

export interface KeyedQueueOptions<R> {
  /** Places; as many more are kept for urgent runs. */
  readonly concurrency: number;
  /** Called with the key; its result goes to those who wait for this run. */
  readonly run: (key: string) => Promise<R>;
  /** For `requestAfter`; it is asked for nothing else, and a run begins and ends without it. Default: the machine's. */
  readonly clock?: Clock;
}

/** How a run is asked for. */
export interface RunRequest {
  /** Somebody waits: it does not wait for a place that others have. What was asked for before becomes urgent with it. Default false. */
  readonly isUrgent?: boolean;
}

interface Slot<R> {
  running: boolean;
  /** Set while another run is asked for: those who wait for it share its outcome. */
  next: PromiseWithResolvers<R> | undefined;
  isUrgent: boolean;
  timer: Timer | undefined;
  /** When the timer is to come. */
  timerMs: number;
}

/** A level-triggered work queue: a request says that a key should be looked at, not what changed. */
export class KeyedQueue<R> {
  readonly #options: KeyedQueueOptions<R>;
  readonly #clock: Clock;
  readonly #slots = new Map<string, Slot<R>>();
  readonly #patient: Lane = { ready: new Set(), running: 0 };
  readonly #urgent: Lane = { ready: new Set(), running: 0 };
  #stopped = false;
  #idle: PromiseWithResolvers<void> | undefined;

  constructor(options: KeyedQueueOptions<R>) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Asks for a run that begins after this call; its failure is nobody's unless someone waits with `run`. */
  request(key: string, how: RunRequest = {}): void {
    this.run(key, how).catch(() => {});
  }

  /** Asks for a run that begins after this call and waits for it. */
  run(key: string, { isUrgent = false }: RunRequest = {}): Promise<R> {
    if (this.#stopped) return Promise.reject(new Error("the agent is stopping"));
    const slot = this.#slot(key);
    slot.timer?.cancel();
    slot.timer = undefined;
    slot.next ??= Promise.withResolvers();
    slot.isUrgent ||= isUrgent;
    if (!slot.running) this.#line(key, slot);
    const { promise } = slot.next;
    this.#pump();
    return promise;
  }

  /** Whether a run of it is under way or asked for; one that is only planned does not count. */
  isBusy(key: string): boolean {
    const slot = this.#slots.get(key);
    return slot !== undefined && (slot.running || slot.next !== undefined);
  }

  /** Asks for a run in a while, unless one is asked for before. */
  requestAfter(key: string, delayMs: number, how: RunRequest = {}): void {
    if (this.#stopped) return;
    const slot = this.#slot(key);
    if (slot.next !== undefined) return;
    slot.timer?.cancel();
    slot.timerMs = this.#clock.nowMs() + delayMs;
    slot.timer = this.#clock.after(delayMs, () => this.request(key, how));
  }

  /** Asks for a run in a while or earlier: one that is planned already for an earlier moment stays. */
  requestWithin(key: string, delayMs: number): void {
    const slot = this.#slots.get(key);
    const isSooner = slot?.timer !== undefined && slot.timerMs <= this.#clock.nowMs() + delayMs;
    if (!isSooner) this.requestAfter(key, delayMs);
  }

  /** Drops what is only planned and refuses new requests; resolves when nothing runs any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const lane of this.#lanes) lane.ready.clear();
    for (const [key, slot] of this.#slots) {
      slot.timer?.cancel();
      slot.next?.reject(new Error("the agent is stopping"));
      slot.next = undefined;
      if (!slot.running) this.#slots.delete(key);
    }
    if (this.#isIdle) return;
    this.#idle ??= Promise.withResolvers();
    await this.#idle.promise;
  }

  #slot(key: string): Slot<R> {
    let slot = this.#slots.get(key);
    if (slot === undefined) {
      slot = { running: false, next: undefined, isUrgent: false, timer: undefined, timerMs: 0 };
      this.#slots.set(key, slot);
    }
    return slot;
  }

  get #lanes(): readonly Lane[] {
    return [this.#urgent, this.#patient];
  }

  get #isIdle(): boolean {
    return this.#lanes.every(({ running }) => running === 0);
  }

  /** Keeps its turn in the lane that it is in. */
  #line(key: string, { isUrgent }: Slot<R>): void {
    if (isUrgent) this.#patient.ready.delete(key);
    (isUrgent ? this.#urgent : this.#patient).ready.add(key);
  }

  #pump(): void {
    for (const lane of this.#lanes) {
      for (const key of lane.ready) {
        if (lane.running >= this.#options.concurrency) break;
        lane.ready.delete(key);
        void this.#start(key, lane);
      }
    }
  }

  async #start(key: string, lane: Lane): Promise<void> {
    const slot = this.#slot(key);
    const current = slot.next;
    if (current === undefined) return;
    // nobody may be waiting: the function reports its own failures
    current.promise.catch(() => {});
    slot.next = undefined;
    slot.isUrgent = false;
    slot.running = true;
    lane.running++;
    try {
      current.resolve(await this.#options.run(key));
    } catch (error) {
      current.reject(error);
    }
    slot.running = false;
    lane.running--;
    if (slot.next !== undefined) this.#line(key, slot);
    else if (slot.timer === undefined) this.#slots.delete(key);
    if (this.#isIdle) this.#idle?.resolve();
    this.#pump();
  }
}

/** Places of one kind, and who waits for one in the order of asking. */
interface Lane {
  readonly ready: Set<string>;
  running: number;
}
