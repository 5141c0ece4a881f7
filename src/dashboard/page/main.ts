// SPDX-License-Identifier: Apache-2.0
// The dashboard's page: takes events in, draws at most once a frame, and lets the address say which pod is open.

import type { NodeReport } from "../../status/node-state-report.ts";
import type { PodReport } from "../../status/state-report.ts";
import type { ChangeEvent, WholeEvent } from "../feed-events.ts";
import { showActivity } from "./activity.ts";
import { setAgentTime, startAgeClock } from "./age-clock.ts";
import { announce } from "./announcer.ts";
import { byId, setAttribute, setText } from "./element.ts";
import { type LinkState, openLiveLink } from "./live-link.ts";
import { showNode } from "./node-strip.ts";
import { OpenPod } from "./open-pod.ts";
import { PodDetail } from "./pod-detail.ts";
import { PodTable, podHash } from "./pod-table.ts";
import { startTheme } from "./theme.ts";

const linkWords: Readonly<Record<LinkState, string>> = {
  connecting: "connecting",
  live: "live",
  lost: "lost the agent, trying again",
};

class Page {
  readonly #table = new PodTable();
  readonly #section = byId("detail");
  #pods = new Map<string, PodReport>();
  #node: NodeReport | undefined;
  readonly #changed = new Set<string>();
  #frame: number | undefined;
  #detail: { readonly uid: string; readonly view: PodDetail; readonly looks: OpenPod } | undefined;

  start(): void {
    startTheme();
    startAgeClock();
    window.addEventListener("hashchange", () => this.#follow({ isAsked: true }));
    document.addEventListener("keydown", (event) => this.#key(event));
    openLiveLink({
      onwhole: (event) => this.#takeWhole(event),
      onchange: (event) => this.#takeChange(event),
      onstate: showLink,
    });
  }

  #takeWhole({ node, pods }: WholeEvent): void {
    this.#node = node;
    const before = this.#pods;
    this.#pods = new Map(pods.map((pod) => [pod.uid, pod]));
    for (const pod of pods) {
      this.#changed.add(pod.uid);
      const known = before.get(pod.uid);
      if (known !== undefined && known.state !== pod.state) announce(pod);
    }
    this.#drawSoon();
  }

  #takeChange({ node, pods, gone }: ChangeEvent): void {
    this.#node = node ?? this.#node;
    for (const uid of gone) {
      const pod = this.#pods.get(uid);
      if (pod !== undefined) announce({ ns: pod.ns, name: pod.name, state: "gone" });
      this.#pods.delete(uid);
      this.#changed.add(uid);
    }
    for (const pod of pods) {
      if (this.#pods.get(pod.uid)?.state !== pod.state) announce(pod);
      this.#pods.set(pod.uid, pod);
      this.#changed.add(pod.uid);
    }
    this.#drawSoon();
  }

  #drawSoon(): void {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      this.#draw();
    });
  }

  #draw(): void {
    const changed = new Set(this.#changed);
    this.#changed.clear();
    if (this.#node !== undefined) {
      setAgentTime(this.#node.at);
      showNode(this.#node);
      showActivity(this.#node);
    }
    if (changed.size === 0) return;
    this.#table.update([...this.#pods.values()], ({ uid }) => changed.has(uid));
    const open = this.#detail;
    const pod = open && this.#pods.get(open.uid);
    if (open !== undefined && pod !== undefined && changed.has(open.uid)) {
      open.view.update(pod);
      open.looks.look();
    }
    // a pod that was replaced by one of its name, one that is gone, one that was asked for before it came
    if (open === undefined ? location.hash !== "" : pod === undefined) this.#follow({ isAsked: false });
  }

  /** Opens the pod that the address names. */
  #follow({ isAsked }: { isAsked: boolean }): void {
    const hash = decodeURIComponent(location.hash);
    // the address of a part of the page, as the skip link has it
    if (hash !== "" && !hash.includes("/")) return;
    const pod = [...this.#pods.values()].find((each) => podHash(each) === hash);
    if (pod !== undefined && pod.uid === this.#detail?.uid) return;
    this.#detail?.looks.stop();
    this.#detail = undefined;
    this.#table.select(pod === undefined ? "" : hash);
    this.#section.hidden = pod === undefined;
    setAttribute(document.body, "data-open", pod === undefined ? undefined : "");
    if (pod === undefined) return;
    const view = new PodDetail(this.#section, pod, { onclose: () => this.#close() });
    this.#detail = { uid: pod.uid, view, looks: new OpenPod(pod, view) };
    this.#section.scrollTop = 0;
    if (isAsked) this.#section.focus({ preventScroll: true });
  }

  #close(): void {
    const hash = decodeURIComponent(location.hash);
    history.pushState(null, "", location.pathname);
    this.#follow({ isAsked: true });
    this.#table.focus(hash);
  }

  #key(event: KeyboardEvent): void {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const isTyping = event.target instanceof HTMLInputElement;
    if (event.key === "/" && !isTyping) {
      event.preventDefault();
      byId("filter").focus();
    } else if (event.key === "Escape" && !isTyping && this.#detail !== undefined) this.#close();
  }
}

function showLink(state: LinkState): void {
  byId("link").dataset.link = state;
  setText(byId("link-text"), linkWords[state]);
}

new Page().start();
