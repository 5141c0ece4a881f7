// SPDX-License-Identifier: Apache-2.0
// What a list may cost as a whole: a server that never comes to an end, or sends what was not asked for, is told and left.
import { fits } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";

/** All pages together; what is over one of these is an error, and nothing of the list counts. */
export interface ListBudget {
  /**
   * Bytes of all answers. Far more than is ever held: a list is taken in item by item, and a tenant's pods alone can make it
   * long (110 pods of 9 MiB each, see `bounds.object`), which must not keep the others' from being seen.
   */
  readonly bytes: number;
  /** Objects that are kept. */
  readonly items: number;
  /** Objects that are not: of other nodes, or without a name. */
  readonly dropped: number;
  readonly droppedBytes: number;
  readonly pages: number;
  /** From the first request to the last byte. */
  readonly ms: number;
}

/** For questions about the whole cluster. Source: Kubernetes "Considerations for large clusters": 150,000 pods. */
export const clusterBudget: ListBudget = {
  bytes: 2 ** 31,
  items: 250_000,
  dropped: 250_000,
  droppedBytes: 2 ** 31,
  pages: 2_000,
  ms: 120_000,
};

/**
 * For the pods of a node, of which a server that follows the field selector sends no other.
 * Source: Kubernetes "Considerations for large clusters": 110 pods a node; platforms go up to 2,500.
 */
export const nodePodsBudget: ListBudget = {
  bytes: 2 ** 30,
  items: 4_096,
  dropped: 1_000,
  droppedBytes: 32 << 20,
  pages: 64,
  ms: 60_000,
};

/** For the metadata of all namespaces. Source: kubernetes/community sig-scalability thresholds: 10,000 namespaces. */
export const namespacesBudget: ListBudget = { ...nodePodsBudget, items: 32_768, pages: 256 };

/** What one list has cost so far, and the deadline for all of it. */
export class ListSpending implements Disposable {
  readonly #budget: ListBudget;
  readonly #deadline = new AbortController();
  readonly #timer: NodeJS.Timeout;
  #bytes = 0;
  #items = 0;
  #dropped = 0;
  #droppedBytes = 0;
  #pages = 0;

  constructor(budget: ListBudget) {
    this.#budget = budget;
    this.#timer = setTimeout(() => {
      const why = `the list as a whole took longer than ${budget.ms} ms`;
      this.#deadline.abort(new DOMException(why, "TimeoutError"));
    }, budget.ms).unref();
  }

  /** Aborts with a TimeoutError when the time is over. */
  get signal(): AbortSignal {
    return this.#deadline.signal;
  }

  /** @param token the one it is asked for with; "" for the first. @throws Error with code OVER_BUDGET */
  page(token: string): void {
    if (!fits(token, bounds.continueToken)) over("continue token", bounds.continueToken.bytes, "bytes");
    if (++this.#pages > this.#budget.pages) over("list", this.#budget.pages, "pages");
  }

  /** @throws Error with code OVER_BUDGET */
  bytes(count: number): void {
    this.#bytes += count;
    if (this.#bytes > this.#budget.bytes) over("list", this.#budget.bytes, "bytes");
  }

  /** One object of so many bytes. @throws Error with code OVER_BUDGET */
  item({ bytes, isKept }: { readonly bytes: number; readonly isKept: boolean }): void {
    const { items, dropped, droppedBytes } = this.#budget;
    if (isKept && ++this.#items > items) over("list", items, "objects");
    if (isKept) return;
    this.#droppedBytes += bytes;
    if (++this.#dropped > dropped) over("list", dropped, "objects that were not asked for");
    if (this.#droppedBytes > droppedBytes)
      over("list", droppedBytes, "bytes of objects that were not asked for");
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

function over(what: string, limit: number, units: string): never {
  throw Object.assign(new Error(`the ${what} has more than ${limit} ${units}`), { code: "OVER_BUDGET" });
}
