// SPDX-License-Identifier: Apache-2.0
// The node at a glance: readiness, the CNI chain, ztunnel, the API server, kubelet probes and the agent itself.

import type { ChainReport, NodeReport } from "../../status/node-state-report.ts";
import { isWithoutAmbient } from "../../status/served-sidecar.ts";
import { showAge } from "./age-clock.ts";
import { byId, make, redraw, setAttribute, setText } from "./element.ts";
import { count, duration, size } from "./format.ts";

/** A line of a cell; a fault is drawn as one. */
interface Line {
  readonly text: string;
  readonly tone?: "good" | "bad" | "warn" | "dim";
  readonly title?: string;
  readonly since?: string;
}

/** Shows the node; cells that say the same as before are left alone. */
export function showNode(node: NodeReport): void {
  setText(byId("node-name"), node.node);
  const missing = node.conditions.filter(({ met }) => !met).map(({ reason }) => reason ?? "");
  const verdict = byId("verdict");
  setAttribute(verdict, "data-tone", node.ready ? "good" : "bad");
  setText(verdict, node.ready ? "Ready" : `Not ready: ${missing.join("; ")}`);
  document.title = `${node.ready ? "" : "not ready · "}${node.node} · ambient-cni`;
  redraw(byId("chain"), node.chain, drawChain);
  const cells = { ztunnel: ztunnelLines, watches: watchLines, probes: probeLines, agent: agentLines };
  for (const [id, linesOf] of Object.entries(cells))
    redraw(byId(id), linesOf(node), (lines) => lines.map(line));
}

function drawChain(chain: ChainReport | null): HTMLElement[] {
  if (chain === null) return [line({ text: "put in place by somebody else", tone: "dim" })];
  const plugins = chain.plugins.map((type) =>
    make("li", { class: type === "ambient-cni" ? "plugin ours" : "plugin", text: type }),
  );
  const lines: Line[] = [];
  if (chain.fault !== null) lines.push({ text: chain.fault, tone: "bad" });
  if (chain.fighting) lines.push({ text: "another program keeps taking our entry out", tone: "bad" });
  const rewrites = chain.rewrites > 0 ? `, repaired ${count(chain.rewrites, "time")}` : "";
  const file = chain.file ?? "no file yet";
  lines.push({ text: `${file.split("/").at(-1)}${rewrites}`, tone: "dim", title: file });
  return [
    ...(plugins.length > 0
      ? [make("ol", { class: "chain", "aria-label": "Plugins in order" }, ...plugins)]
      : []),
    ...lines.map(line),
  ];
}

function ztunnelLines(node: NodeReport): Line[] {
  const { ztunnel } = node;
  if (isWithoutAmbient(node))
    return [
      { text: "not asked for: sidecars alone are served", tone: "dim", title: "AMBIENT_ENABLED=false" },
    ];
  if (ztunnel.connections.length === 0) {
    return [
      { text: "not connected", tone: "bad" },
      { text: ztunnel.socket, tone: "dim" },
    ];
  }
  const lines = ztunnel.connections.map(({ id, pid, phase, since, acknowledged, pending, refused }): Line => {
    const waits = pending > 0 ? `, ${pending} pending` : "";
    const refusals = refused > 0 ? `, ${refused} refused` : "";
    return {
      text: `#${id} ${phase}: ${acknowledged} of ${ztunnel.roster} pods${waits}${refusals}`,
      tone: refused > 0 || phase === "closed" ? "bad" : phase === "live" ? "good" : "warn",
      title: `process ${pid}`,
      since,
    };
  });
  return [...lines, { text: `${count(ztunnel.accepted, "connection")} since the start`, tone: "dim" }];
}

function watchLines({ watches }: NodeReport): Line[] {
  return watches.map(({ name, objects, synced, fresh, ageSeconds, failures }) => {
    const word = !synced ? "not listed yet" : fresh ? `${objects} known` : "stale";
    const quiet = synced && !fresh && ageSeconds !== null ? ` for ${Math.round(ageSeconds)} s` : "";
    return {
      text: `${name}: ${word}${quiet}`,
      tone: synced && fresh ? "good" : "bad",
      title: `${failures} failed requests`,
    };
  });
}

function probeLines(node: NodeReport): Line[] {
  const { probes } = node;
  if (isWithoutAmbient(node))
    return [{ text: "reach pods as they are", tone: "dim", title: "AMBIENT_ENABLED=false" }];
  const lines: Line[] = [];
  if (probes.fault !== null) lines.push({ text: probes.fault, tone: "bad" });
  if (probes.path === null) lines.push({ text: "path not tried yet", tone: "dim" });
  else if (probes.path.outcome === "bypassed") lines.push({ text: "pass ztunnel by", tone: "good" });
  else lines.push({ text: `${probes.path.message}. ${probes.path.remedy ?? ""}`, tone: "bad" });
  if (probes.restored > 0)
    lines.push({ text: `host rules restored ${count(probes.restored, "time")}`, tone: "warn" });
  return lines;
}

function agentLines({ version, backend, process, uptimeSeconds, openNetns }: NodeReport): Line[] {
  const uptime = duration(
    1000 * (uptimeSeconds < 60 ? Math.floor(uptimeSeconds) : 60 * Math.floor(uptimeSeconds / 60)),
  );
  return [
    { text: `version ${version}, up ${uptime}`, title: `process ${process.pid}` },
    {
      text: backend.variant === "native" ? "native nftables" : `iptables-${backend.variant}`,
      tone: "dim",
      title: backend.reason,
    },
    { text: `${size(process.rssBytes)}, ${count(openNetns, "namespace")} open`, tone: "dim" },
  ];
}

function line({ text, tone, title, since }: Line): HTMLElement {
  const element = make("p", { class: "line", "data-tone": tone, title }, text);
  if (since === undefined) return element;
  const time = make("time");
  showAge(time, since);
  element.append(" ", make("span", { class: "since" }, "· ", time));
  return element;
}
