// SPDX-License-Identifier: Apache-2.0
// One pod in full: why it stands where it stands, what was seen in the kernel, its rules, its time line, its log.
import { isServedSidecar } from "../../status/served-sidecar.ts";
import type {
  LogLineReport,
  ObservedReport,
  PodDetailReport,
  PodReport,
  SidecarRedirectReport,
} from "../../status/state-report.ts";
import type { PodRulesReport } from "../rules-report.ts";
import { keyOf, logItem } from "./activity.ts";
import { make, redraw, setAttribute, setText } from "./element.ts";
import { clock } from "./format.ts";
import { KeyedList } from "./keyed-list.ts";
import { PacketView } from "./packet-view.ts";
import { showState, stateBadge } from "./state-badge.ts";
import { TimeLine } from "./time-line.ts";

interface Check {
  readonly text: string;
  /** `null`: not known or not applicable. */
  readonly isRight: boolean | null;
}

/** The view of one pod; made anew for each pod that is opened. */
export class PodDetail {
  readonly #badge = stateBadge();
  readonly #summary = make("p", { class: "summary" });
  readonly #error = make("div", { class: "error-box" });
  readonly #facts = make("dl", { class: "facts" });
  readonly #checks = make("ul", { class: "checks" });
  readonly #packets = new PacketView();
  readonly #timeLine = new TimeLine();
  readonly #log = make("ol", { class: "log" });
  readonly #lines: KeyedList<LogLineReport>;
  #rules: PodRulesReport | undefined;
  #observed: ObservedReport | null = null;

  /** Fills the section. @param options.onclose the reader is done with this pod */
  constructor(section: HTMLElement, pod: PodReport, options: { onclose: () => void }) {
    this.#lines = new KeyedList(this.#log, { key: keyOf, create: () => logItem() });
    const close = make("button", { type: "button", class: "quiet close", text: "Close" });
    close.addEventListener("click", options.onclose);
    const heading = make("h2", {}, make("span", { class: "ns", text: `${pod.ns}/` }), pod.name);
    section.replaceChildren(
      make("div", { class: "detail-head" }, heading, this.#badge, close),
      this.#summary,
      this.#error,
      this.#checks,
      this.#facts,
      this.#packets.element,
      this.#timeLine.element,
      make("section", { class: "block" }, make("h3", { text: "Last words of the log" }), this.#log),
    );
    this.update(pod);
  }

  /** What the agent knows by itself: it comes with the live feed. */
  update(pod: PodReport): void {
    showState(this.#badge, pod.state);
    setText(this.#summary, summaryOf(pod));
    this.#showError(pod);
    this.#showFacts(pod);
    if (this.#observed === null || pod.observed === null) this.#showChecks(pod, pod.observed);
  }

  /** What was looked at in the kernel for us. */
  updateSeen(pod: PodDetailReport): void {
    this.#observed = pod.observed;
    this.update(pod);
    this.#showChecks(pod, pod.observed);
    this.#timeLine.update(pod);
    this.#lines.sync([...pod.log].reverse(), () => false);
    if (this.#rules !== undefined) this.#packets.update(this.#rules, this.#observed);
  }

  updateRules(rules: PodRulesReport): void {
    this.#rules = rules;
    this.#packets.update(rules, this.#observed);
  }

  failRules(reason: string): void {
    this.#packets.fail(reason);
  }

  #showError({ lastError }: PodReport): void {
    this.#error.hidden = lastError === null;
    if (lastError === null) return;
    const { message, remedy, attempts } = lastError;
    const tries = attempts === 1 ? "1 attempt failed." : `${attempts} attempts in a row failed.`;
    redraw(this.#error, [message, tries, remedy], () => [
      make("p", { text: `${message}. ${tries}` }),
      make("p", {}, make("b", { text: "What to do: " }), remedy),
    ]);
  }

  #showFacts(pod: PodReport): void {
    const { desired, uid, phase, ips, annotation, observed } = pod;
    const { sidecar } = desired;
    const earlier = pod.earlierConnections ?? 0;
    const facts: [string, string][] = [
      ["Wanted", `${desired.wanted === null ? "not known" : desired.wanted ? "yes" : "no"}: ${desired.why}`],
      ...(sidecar ? [["Sidecar", sidecarText(sidecar)] as [string, string]] : []),
      ["Phase", phase === "" ? "not known" : phase],
      ["Addresses", ips.join("  ") || "none yet"],
      ["Annotation", annotation ?? "none"],
      ["Namespace", observed?.netns ?? "not known"],
      ["UID", uid],
      ...(earlier > 0
        ? [["Open at its capture", `${earlier} connection${earlier === 1 ? "" : "s"}`] as [string, string]]
        : []),
      ...desired.warnings.map((warning): [string, string] => ["Warning", warning]),
    ];
    redraw(this.#facts, facts, () =>
      facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]),
    );
  }

  #showChecks(pod: PodReport, observed: ObservedReport | null): void {
    const checks = observed === null ? [] : isServedSidecar(pod) ? ruleChecks(observed) : checksOf(observed);
    redraw(this.#checks, checks, () =>
      checks.map(({ text, isRight }) => {
        const word = isRight === null ? "not known" : isRight ? "right" : "wrong";
        const item = make("li", {}, make("span", { class: "visually-hidden", text: `${word}: ` }), text);
        setAttribute(item, "data-right", isRight === null ? undefined : String(isRight));
        return item;
      }),
    );
  }
}

/** The agent names times as logs do; a failure has a box of its own. */
function summaryOf({ summary, lastError }: PodReport): string {
  const rest = lastError === null ? summary : summary.replace(`: ${lastError.message}`, "");
  return rest.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, clock);
}

/** What an operator compares with the annotations. */
function sidecarText(sidecar: SidecarRedirectReport): string {
  const { mode, proxyUid, dnsCapture, includeInboundPorts: ports, includeOutboundCidrs: cidrs } = sidecar;
  const list = (words: "*" | readonly (number | string)[]) =>
    words === "*" ? "all" : words.join(", ") || "none";
  const dns = dnsCapture ? ", with DNS" : "";
  return `${mode}, proxy user ${proxyUid}, inbound ports ${list(ports)}, outbound to ${list(cidrs)}${dns}`;
}

/** What counts of a pod that is redirected to its sidecar, too. */
function ruleChecks({ families, unread }: ObservedReport): Check[] {
  const checks: Check[] = families.flatMap((seen): Check[] => {
    const { family, skipped, drift, fingerprint, ipRule, route } = seen;
    if (skipped !== null && ipRule === null && drift.length === 0)
      return [{ text: `IPv${family}: ${skipped}`, isRight: null }];
    const rules = drift.filter(({ kind }) => kind !== "missing-ip-rule" && kind !== "missing-route");
    return [
      ...(rules.length === 0
        ? [{ text: `IPv${family} rules`, isRight: true }]
        : rules.map(({ detail, table }) => ({
            text: `IPv${family}${table && ` ${table}`}: ${detail}`,
            isRight: false,
          }))),
      ...(fingerprint === null && ipRule === null && route === null
        ? []
        : [
            { text: `IPv${family} ip rule`, isRight: ipRule },
            { text: `IPv${family} route`, isRight: route },
          ]),
    ];
  });
  if (unread !== null) checks.push({ text: `namespace not read: ${unread}`, isRight: null });
  return checks;
}

function checksOf(observed: ObservedReport): Check[] {
  const { ztunnel, sockets, probes } = observed;
  const checks = ruleChecks(observed);
  checks.push({ text: "ztunnel has acknowledged it", isRight: ztunnel.acknowledged });
  if (sockets !== null) {
    const silent = sockets
      .filter(({ listening }) => !listening)
      .map(({ port, protocol }) => `${port}/${protocol}`);
    const text = silent.length === 0 ? "ztunnel's sockets listen" : `nobody listens on ${silent.join(", ")}`;
    checks.push({ text, isRight: silent.length === 0 });
  }
  checks.push({ text: "in the host's probe set", isRight: probes.member });
  return checks;
}
