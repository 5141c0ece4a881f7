// SPDX-License-Identifier: Apache-2.0
// Making and changing elements; what is the same already is not touched, so that nothing is drawn or read out again.

type Child = Node | string | null | undefined;

/** Makes an element. `class` and `text` are what they say, everything else is an attribute; `undefined` leaves it out. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string | undefined>> = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined) continue;
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** @throws Error when the page has no such element */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`Cannot find "#${id}" in the page`);
  return element as T;
}

/** @returns whether the text was another one */
export function setText(element: Node, text: string): boolean {
  if (element.textContent === text) return false;
  element.textContent = text;
  return true;
}

/** `undefined` takes the attribute away. */
export function setAttribute(element: Element, name: string, value: string | undefined): void {
  if (value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Gives an element new children where what they show is not what it shows already. @param shown as JSON, all that they show */
export function redraw<T>(element: HTMLElement, shown: T, draw: (shown: T) => readonly Node[]): void {
  const text = JSON.stringify(shown);
  if (element.dataset.shown === text) return;
  element.dataset.shown = text;
  element.replaceChildren(...draw(shown));
}
