// SPDX-License-Identifier: Apache-2.0
// Where ADDs wait for a ztunnel to connect.

/** Lets callers wait, with a deadline, for the next ztunnel connection. */
export class ZtunnelGate {
  readonly #waitMs: number;
  readonly #closed = Promise.withResolvers<never>();
  #opened = Promise.withResolvers<void>();

  /** @param waitMs the time the callers' deadlines grant, for the message when it has passed */
  constructor(waitMs: number) {
    this.#waitMs = waitMs;
    // nobody may be waiting when it closes
    this.#closed.promise.catch(() => {});
  }

  /** A ztunnel has connected: everybody who waits goes on. */
  open(): void {
    this.#opened.resolve();
    this.#opened = Promise.withResolvers();
  }

  /** Nobody waits any more, now or later. */
  close(reason: Error): void {
    this.#closed.reject(reason);
  }

  /**
   * @param deadlineMs on the clock of performance.now()
   * @param obstacle why no ztunnel could connect, when that is known
   * @throws Error at the deadline, or the reason of `close`
   */
  async pass(deadlineMs: number, obstacle = "no ztunnel connection"): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const fail = (): void => reject(new Error(`${obstacle} for ${this.#waitMs / 1000} s`));
      timer = setTimeout(fail, Math.max(0, deadlineMs - performance.now()));
    });
    try {
      await Promise.race([this.#opened.promise, this.#closed.promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}
