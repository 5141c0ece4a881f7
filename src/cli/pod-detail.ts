// SPDX-License-Identifier: Apache-2.0
// Everything that is known of one pod, as text for people.
import { isServedSidecar } from "../status/served-sidecar.ts";
import type {
  FamilyReport,
  ObservedReport,
  PodDetailReport,
  PodReport,
  SidecarRedirectReport,
} from "../status/state-report.ts";
import { paint, printable } from "./table.ts";

/** A pod's report as lines of `name: value`. */
export function renderPodDetail(pod: PodDetailReport, colours: boolean): string {
  const { wanted, why, warnings, sidecar = null } = pod.desired;
  const isGood = pod.state === "enrolled" || pod.state === "sidecar";
  const head = `${pod.ns}/${pod.name}  ${paint(pod.state, isGood ? "good" : "doubt", colours)}`;
  const lines: [string, string][] = [
    ["summary", pod.summary],
    ["uid", pod.uid],
    ["phase", pod.phase],
    ["addresses", pod.ips.join(" ") || "none"],
    ["wanted", `${wanted === null ? "not known" : wanted ? "yes" : "no"}: ${why}`],
    ...warnings.map((text): [string, string] => ["warning", text]),
    ["annotation", pod.annotation ?? "none"],
    ...sidecarLines(sidecar),
    ...earlierLines(pod),
    ...observedLines(pod),
  ];
  if (pod.lastError !== null) {
    lines.push([
      "last error",
      `${pod.lastError.message} (${pod.lastError.attempts} times, last at ${pod.lastError.at})`,
    ]);
    lines.push(["remedy", pod.lastError.remedy]);
  }
  for (const { at, from, to, ms, reason } of pod.transitions) {
    lines.push(["transition", `${at} ${from} -> ${to} in ${Math.round(ms)} ms: ${reason}`]);
  }
  for (const { at, level, message, reason } of pod.log) {
    lines.push(["log", `${at} ${level} ${message}${reason === null ? "" : `: ${reason}`}`]);
  }
  const width = Math.max(...lines.map(([name]) => name.length));
  return `${[head, ...lines.map(([name, text]) => `  ${`${name}:`.padEnd(width + 1)} ${printable(text)}`)].join("\n")}\n`;
}

/** A running pod's connections from before its capture, where there were any. */
export function earlierLines({ earlierConnections, desired }: PodReport): [string, string][] {
  const count = earlierConnections ?? 0;
  if (count === 0) return [];
  const wasReset = desired.redirect?.establishedConnections === "reset";
  const fate = wasReset ? "reset" : "outside the mesh until they end";
  return [["connections", `${count} from before the capture, ${fate}`]];
}

/** How its sidecar gets the pod's traffic, in the words of the state API. */
function sidecarLines(sidecar: SidecarRedirectReport | null): [string, string][] {
  if (sidecar === null) return [];
  const words = Object.entries(sidecar).map(([name, value]) => `${name}=${wordsOf(value)}`);
  return [["sidecar", words.join(" ")]];
}

function wordsOf(value: unknown): string {
  return Array.isArray(value) ? value.join(",") || "none" : String(value);
}

function observedLines(pod: PodReport): [string, string][] {
  const { observed } = pod;
  if (observed === null) return [];
  const isServed = isServedSidecar(pod);
  return [
    ["looked at", `${observed.at} (${observed.source})`],
    ["namespace", observed.netns === null ? "not known" : `${observed.netns}${sourceText(observed)}`],
    ...(observed.unread === null ? [] : ([["not read", observed.unread]] as [string, string][])),
    ...bypassLines(observed),
    ...observed.families.map((family): [string, string] => [
      `IPv${family.family}`,
      isServed ? servedText(family) : familyText(family),
    ]),
    ...(isServed ? [] : ambientLines(observed)),
  ];
}

/** What a pod has that ztunnel serves. */
function ambientLines({ sockets, ztunnel, probes }: ObservedReport): [string, string][] {
  const closed = (sockets ?? [])
    .filter(({ listening }) => !listening)
    .map(({ protocol, port }) => `${protocol}/${port}`);
  return [
    [
      "sockets",
      sockets === null ? "not looked at" : closed.length === 0 ? "all open" : `closed: ${closed.join(" ")}`,
    ],
    [
      "ztunnel",
      ztunnel.acknowledged
        ? `acknowledged on connection ${ztunnel.connection}`
        : ztunnel.inRoster
          ? "told, not acknowledged"
          : "not told",
    ],
    [
      "probes",
      probes.member === null
        ? "not known"
        : probes.member
          ? `past ztunnel: ${probes.addresses.join(" ")}`
          : "not in the host's sets",
    ],
  ];
}

/** What comes before our rules; of an older agent, and of a pod that was not looked at, nothing is said. */
export function bypassLines({ bypasses }: ObservedReport): [string, string][] {
  const found = bypasses?.found ?? [];
  const lines = found.map(({ kind, detail }): [string, string] => ["may be bypassed", `${kind}: ${detail}`]);
  if (bypasses?.complete !== false) return lines;
  return [
    ...lines,
    ["may be bypassed", "what stands before our rules cannot be told: too much, or it changes"],
  ];
}

function servedText({ drift }: FamilyReport): string {
  return drift.length > 0
    ? drift.map(({ kind, detail }) => `${kind}: ${detail}`).join("; ")
    : "its sidecar's rules are right";
}

function familyText({ skipped, drift, ipRule, route }: FamilyReport): string {
  if (drift.length > 0) return drift.map(({ kind, detail }) => `${kind}: ${detail}`).join("; ");
  if (skipped !== null) return `left out: ${skipped}`;
  return `rules right, ip rule ${there(ipRule)}, route ${there(route)}`;
}

function there(value: boolean | null): string {
  return value === null ? "not looked at" : value ? "there" : "missing";
}

const sources = {
  add: "told by the runtime at ADD",
  nri: "told by the runtime over NRI, without an ADD",
  proc: "found by a process of the pod",
  pinned: "found by the pod's address",
} as const;

function sourceText({ sandboxSource }: ObservedReport): string {
  return sandboxSource ? `, ${sources[sandboxSource]}` : "";
}
