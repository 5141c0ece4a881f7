// SPDX-License-Identifier: Apache-2.0
// The table of pods: rows keep their place and their focus while the pods in them change.
import type { PodReport, PodStateReport } from "../../status/state-report.ts";
import { showAge } from "./age-clock.ts";
import { byId, make, setAttribute, setText } from "./element.ts";
import { duration } from "./format.ts";
import { type KeyedItem, KeyedList } from "./keyed-list.ts";
import { showState, stateBadge, stateMeanings, stateOrder } from "./state-badge.ts";

type SortKey = "name" | "state" | "change";

const comparers: Readonly<Record<SortKey, (a: PodReport, b: PodReport) => number>> = {
  name: byName,
  state: (a, b) => stateOrder.indexOf(a.state) - stateOrder.indexOf(b.state) || byName(a, b),
  change: (a, b) => changedAt(b).localeCompare(changedAt(a)) || byName(a, b),
};

/** Where everything changes, nothing stands out. */
const maxFlashes = 20;
const rowsPerFrame = 60;
const countOrder: readonly PodStateReport[] = [
  "enrolled",
  "pending",
  "waiting",
  "unverified",
  "failed",
  "sidecar",
  "outside",
];

/** Address of a pod in the page. */
export function podHash({ ns, name }: { readonly ns: string; readonly name: string }): string {
  return `#${ns}/${name}`;
}

/** Filters, sorts and draws. */
export class PodTable {
  readonly #list: KeyedList<PodReport>;
  readonly #body = byId("pod-rows");
  readonly #filter = byId<HTMLInputElement>("filter");
  readonly #states = new Set<PodStateReport>();
  readonly #counts = new Map<PodStateReport, HTMLElement>();
  #pods: readonly PodReport[] = [];
  #shown: readonly PodReport[] = [];
  #sort: SortKey = "name";
  #frame: number | undefined;
  #selected = "";
  #current = "";

  constructor() {
    this.#list = new KeyedList(this.#body, { key: ({ uid }) => uid, create: () => podRow() });
    this.#filter.addEventListener("input", () => this.#show(() => false));
    this.#body.addEventListener("keydown", (event) => this.#walk(event));
    this.#body.addEventListener("focusin", ({ target }) => this.#setCurrent(target));
    this.#body.addEventListener("click", (event) => this.#clickRow(event));
    for (const button of document.querySelectorAll<HTMLButtonElement>("button[data-sort]"))
      button.addEventListener("click", () => this.#sortBy(button));
    byId("counts").append(...countOrder.map((state) => this.#countButton(state)));
  }

  /** Takes in all pods; only rows of changed ones are written. */
  update(pods: readonly PodReport[], isChanged: (pod: PodReport) => boolean): void {
    this.#pods = pods;
    const changes = pods.reduce((sum, pod) => sum + (isChanged(pod) ? 1 : 0), 0);
    setAttribute(this.#body, "data-busy", changes > maxFlashes ? "" : undefined);
    for (const [state, element] of this.#counts) {
      const number = pods.reduce((sum, pod) => sum + (pod.state === state ? 1 : 0), 0);
      setText(element, String(number));
      setAttribute(element.parentElement ?? element, "data-count", String(number));
    }
    this.#show(isChanged);
  }

  /** Marks the pod that is open. @param hash as `podHash` gives it, "" for none */
  select(hash: string): void {
    this.#selected = hash;
    for (const row of this.#body.children) markRow(row, hash);
  }

  /** Puts the focus on the row of a pod, or on the table's start. */
  focus(hash: string): void {
    const links = [...this.#body.querySelectorAll<HTMLAnchorElement>("a")];
    (links.find((link) => link.getAttribute("href") === hash) ?? links[0])?.focus();
  }

  #show(isChanged: (pod: PodReport) => boolean): void {
    const words = this.#filter.value
      .toLowerCase()
      .split(/\s+/)
      .filter((word) => word !== "");
    const isWanted = (pod: PodReport): boolean =>
      (this.#states.size === 0 || this.#states.has(pod.state)) && hasWords(pod, words);
    this.#shown = this.#pods.filter(isWanted).sort(comparers[this.#sort]);
    this.#draw(isChanged);
    this.select(this.#selected);
    this.#keepOneTabStop();
    const total = this.#pods.length;
    const isAll = this.#shown.length === total;
    setText(byId("shown"), isAll ? `${total} pods` : `${this.#shown.length} of ${total} pods shown`);
    const empty = byId("no-pods");
    empty.hidden = this.#shown.length > 0;
    setText(empty, total === 0 ? "No pod runs on this node." : "No pod matches the filter.");
  }

  /** Rows are added over several frames: a whole node at once, laid out in one task, is felt while typing. */
  #draw(isChanged: (pod: PodReport) => boolean): void {
    let free = rowsPerFrame;
    const drawn = this.#shown.filter(({ uid }) => this.#list.get(uid) !== undefined || free-- > 0);
    this.#list.sync(drawn, isChanged);
    if (drawn.length === this.#shown.length || this.#frame !== undefined) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = undefined;
      this.#show(() => false);
    });
  }

  #keepOneTabStop(): void {
    const uids = this.#shown.map(({ uid }) => uid);
    if (!uids.includes(this.#current)) this.#current = uids[0] ?? "";
    for (const uid of uids) {
      const link = this.#list.get(uid)?.element.querySelector("a");
      if (link) setAttribute(link, "tabindex", uid === this.#current ? "0" : "-1");
    }
  }

  #setCurrent(target: EventTarget | null): void {
    const uid = target instanceof Element ? target.closest("tr")?.dataset.uid : undefined;
    if (uid === undefined || uid === this.#current) return;
    this.#current = uid;
    this.#keepOneTabStop();
  }

  #walk(event: KeyboardEvent): void {
    const links = [...this.#body.querySelectorAll<HTMLAnchorElement>("a")];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    const steps: Readonly<Record<string, number>> = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + 10,
      PageUp: at - 10,
      Home: 0,
      End: links.length - 1,
    };
    const to = steps[event.key];
    if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    links[Math.max(0, Math.min(links.length - 1, to))]?.focus();
  }

  #clickRow({ target }: MouseEvent): void {
    if (!(target instanceof Element) || target.closest("a") !== null) return;
    // people mark text with the mouse too
    if (document.getSelection()?.isCollapsed === false) return;
    target.closest("tr")?.querySelector("a")?.click();
  }

  #sortBy(button: HTMLButtonElement): void {
    this.#sort = button.dataset.sort as SortKey;
    for (const other of document.querySelectorAll<HTMLButtonElement>("button[data-sort]")) {
      const direction = this.#sort === "change" ? "descending" : "ascending";
      setAttribute(other.closest("th") ?? other, "aria-sort", other === button ? direction : "none");
    }
    this.#show(() => false);
  }

  #countButton(state: PodStateReport): HTMLElement {
    const badge = stateBadge();
    showState(badge, state);
    const number = make("b", { class: "number", text: "0" });
    const attributes = {
      type: "button",
      "aria-pressed": "false",
      title: stateMeanings[state],
      "data-count": "0",
    };
    const button = make("button", attributes, badge, " ", number);
    this.#counts.set(state, number);
    button.addEventListener("click", () => {
      const isOn = !this.#states.delete(state);
      if (isOn) this.#states.add(state);
      setAttribute(button, "aria-pressed", String(isOn));
      this.#show(() => false);
    });
    return button;
  }
}

function podRow(): KeyedItem<PodReport> {
  const ns = make("span", { class: "ns" });
  const name = make("span", { class: "name" });
  const link = make("a", { class: "pod-link" }, ns, name);
  const ips = make("span", { class: "ips" });
  const badge = stateBadge();
  const why = make("span", { class: "why" });
  const whyCell = make("td", { class: "col-why" }, why);
  const time = make("time");
  const change = make("span", { class: "change" });
  const row = make(
    "tr",
    {},
    make("th", { scope: "row" }, link, ips),
    make("td", { class: "col-state" }, badge),
    whyCell,
    make("td", { class: "col-change" }, time, change),
  );
  let state: string | undefined;
  return {
    element: row,
    update(pod) {
      row.dataset.uid = pod.uid;
      setText(ns, `${pod.ns}/`);
      setText(name, pod.name);
      setAttribute(link, "href", podHash(pod));
      setText(ips, pod.ips.join(" "));
      showState(badge, pod.state);
      if (setText(why, whyOf(pod))) whyCell.title = whyOf(pod);
      setAttribute(whyCell, "data-error", pod.lastError === null ? undefined : "");
      const last = pod.transitions.at(-1);
      showAge(time, last?.at);
      setText(change, last === undefined ? "" : `was ${last.from}, ${duration(last.ms)}`);
      if (state !== undefined && state !== pod.state) flash(row);
      state = pod.state;
    },
  };
}

/** Draws the eye once; without motion where people want none, which the style sheet knows. */
function flash(row: HTMLElement): void {
  row.classList.remove("flash");
  requestAnimationFrame(() => row.classList.add("flash"));
}

function markRow(row: Element, hash: string): void {
  const link = row.querySelector("a");
  setAttribute(row, "data-selected", link?.getAttribute("href") === hash ? "" : undefined);
  if (link) setAttribute(link, "aria-current", link.getAttribute("href") === hash ? "true" : undefined);
}

/** The badge says the state already. */
function whyOf({ lastError, desired, state, summary }: PodReport): string {
  if (lastError !== null) return lastError.message;
  return ["enrolled", "sidecar", "outside"].includes(state) ? desired.why : summary;
}

function hasWords(pod: PodReport, words: readonly string[]): boolean {
  if (words.length === 0) return true;
  const text = [pod.ns, pod.name, pod.state, pod.uid, ...pod.ips, whyOf(pod)].join(" ").toLowerCase();
  return words.every((word) => text.includes(word) || `${pod.ns}/${pod.name}`.includes(word));
}

function byName(a: PodReport, b: PodReport): number {
  return a.ns < b.ns ? -1 : a.ns > b.ns ? 1 : a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}

function changedAt(pod: PodReport): string {
  return pod.transitions.at(-1)?.at ?? "";
}
