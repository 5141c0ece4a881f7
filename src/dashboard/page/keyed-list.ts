// SPDX-License-Identifier: Apache-2.0
// Children of an element that follow a list of items: each item keeps its element, and the focus stays where it is.

/** An item's element. */
export interface KeyedItem<T> {
  readonly element: HTMLElement;
  update(item: T): void;
}

export interface KeyedListOptions<T> {
  readonly key: (item: T) => string;
  readonly create: (item: T) => KeyedItem<T>;
}

/** Makes, moves, updates and removes as little as it can. */
export class KeyedList<T> {
  readonly #parent: HTMLElement;
  readonly #options: KeyedListOptions<T>;
  readonly #items = new Map<string, KeyedItem<T>>();

  constructor(parent: HTMLElement, options: KeyedListOptions<T>) {
    this.#parent = parent;
    this.#options = options;
  }

  get(key: string): KeyedItem<T> | undefined {
    return this.#items.get(key);
  }

  /** @param isChanged items that it denies are only put into their place; default: all are updated */
  sync(items: readonly T[], isChanged: (item: T) => boolean = () => true): void {
    const focused = document.activeElement;
    const keys = new Set(items.map((item) => this.#options.key(item)));
    let rescue: Element | null = null;
    for (const [key, { element }] of this.#items) {
      if (keys.has(key)) continue;
      if (focused !== null && element.contains(focused)) {
        rescue = element.nextElementSibling ?? element.previousElementSibling;
      }
      element.remove();
      this.#items.delete(key);
    }
    let cursor = this.#parent.firstElementChild;
    for (const item of items) {
      const key = this.#options.key(item);
      let known = this.#items.get(key);
      if (known === undefined) {
        known = this.#options.create(item);
        this.#items.set(key, known);
        known.update(item);
      } else if (isChanged(item)) known.update(item);
      if (known.element === cursor) cursor = cursor.nextElementSibling;
      else this.#parent.insertBefore(known.element, cursor);
    }
    keepFocus(focused, rescue);
  }
}

/** An element that was moved has lost the focus, one that was removed hands it to its neighbour. */
function keepFocus(focused: Element | null, rescue: Element | null): void {
  if (document.activeElement === focused) return;
  const next = focused?.isConnected === true ? focused : rescue?.querySelector("a, button");
  if (next instanceof HTMLElement) next.focus({ preventScroll: true });
}
