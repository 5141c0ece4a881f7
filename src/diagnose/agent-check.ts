// SPDX-License-Identifier: Apache-2.0
// What the agent's own report means: is it ready, is ztunnel there, do probes pass, which pods are not captured and why.

import type { NodeReport } from "../status/node-state-report.ts";
import { isServedSidecar, isWithoutAmbient } from "../status/served-sidecar.ts";
import type { PodListReport } from "../status/state-report.ts";
import { allOf, type Finding, failing, fine, warning } from "./finding.ts";
import { judgeSidecars } from "./sidecar-check.ts";

const MANY_REPAIRS = 20;
const MANY_CONNECTIONS_AN_HOUR = 20;

/** Findings of an agent that answers. Pure. */
export function judgeAgent(node: NodeReport, list: PodListReport): Finding[] {
  const { ignoredSettings: ignored } = node;
  return allOf(
    readiness(node),
    watches(node),
    ztunnel(node),
    probeRules(node),
    probePath(node),
    leftovers(node),
    runtime(node),
    pods(node, list),
    judgeSidecars(node, list),
    repairs(node),
    ignored.length === 0 ? undefined : fine("settings", `without effect: ${ignored.join("; ")}`),
  );
}

/** The finding of an agent that does not answer. @param why one sentence with the remedy */
export function agentAway(why: string): Finding {
  return failing("agent", why, "pods that run stay as they are; new pods of the mesh wait until it is back");
}

function readiness({ ready, conditions, version, uptimeSeconds }: NodeReport): Finding {
  if (ready) return fine("agent", `version ${version} is ready, up for ${Math.round(uptimeSeconds)} s`);
  const missing = conditions.filter(({ met }) => !met).map(({ name, reason }) => `${name}: ${reason}`);
  return failing(
    "agent",
    `not ready: ${missing.join("; ")}`,
    "the sentence names it; `ambient-cni status` follows it",
  );
}

function watches({ watches: all }: NodeReport): Finding {
  const stale = all.filter(({ fresh }) => !fresh);
  if (stale.length === 0)
    return fine(
      "watches",
      `${all.map(({ name, objects }) => `${objects} ${name}`).join(", ")} known, up to date`,
    );
  const names = stale.map(
    ({ name, ageSeconds, failures }) =>
      `${name} (${ageSeconds === null ? "never heard" : `last heard ${ageSeconds} s ago`}, ${failures} failures)`,
  );
  return failing(
    "watches",
    `the agent's picture is old: ${names.join(", ")}`,
    "look at the finding api, and at the way from this node to the API server",
  );
}

function ztunnel(node: NodeReport): Finding {
  const {
    ztunnel: { socket, connections, ready, accepted },
    uptimeSeconds,
  } = node;
  if (isWithoutAmbient(node)) return fine("ztunnel", withoutAmbient("no ztunnel is needed"));
  const remedy =
    "kubectl get pods -A -l app=ztunnel -o wide; compare ZTUNNEL_UDS_ADDRESS with ztunnel's mount";
  const newest = connections.at(-1);
  if (newest === undefined) return failing("ztunnel", `no ztunnel is connected to "${socket}"`, remedy);
  if (!ready)
    return failing(
      "ztunnel",
      `ztunnel (connection ${newest.id}) is connected but has not taken its snapshot: ${newest.phase}`,
      "look at ztunnel's log on this node",
    );
  const restarts = `${accepted} connection${accepted === 1 ? "" : "s"} since the agent started`;
  if (accepted > 5 && accepted / (uptimeSeconds / 3600) > MANY_CONNECTIONS_AN_HOUR)
    return warning(
      "ztunnel",
      `ztunnel keeps connecting anew: ${restarts}`,
      "look at ztunnel's log and restarts on this node",
    );
  const refused = newest.refused > 0 ? `, ${newest.refused} pods refused` : "";
  const what = `connected, ${newest.acknowledged} pods acknowledged${refused}, ${restarts}`;
  return newest.refused > 0
    ? warning(
        "ztunnel",
        what,
        "something in those pods may hold a port from 15001 to 15053: `ambient-cni status` names them",
      )
    : fine("ztunnel", what);
}

/** Where the runtime does not tell of its sandboxes, that is no fault: CNI does. */
function runtime({ runtime: told, sandboxes = [], settings }: NodeReport): Finding | undefined {
  if (!told) return undefined;
  const fix =
    "mount the folder of the runtime's socket (chart: nri), or set NRI_SOCKET_PATH; NRI_ENABLED=false asks for none";
  const { state, socket, fault } = told;
  if (state === "absent") {
    const what = `there is no socket "${socket}": pods that the chain misses are captured after they started`;
    return settings.NRI_ENABLED === "true" ? warning("nri", what, fix) : fine("nri", what);
  }
  if (state !== "connected") {
    const why =
      fault === null ? "has not told of its sandboxes yet" : `does not tell of its sandboxes: ${fault}`;
    return warning(
      "nri",
      `the runtime ${why}`,
      `look at the runtime's log; the agent connects to "${socket}" again and again`,
    );
  }
  const counts = sandboxes.map(({ kind, count }) => `${count} ${sourceWords[kind] ?? kind}`);
  return fine("nri", `${told.runtime} tells of its sandboxes; known: ${counts.join(", ")}`);
}

const sourceWords: Readonly<Record<string, string>> = {
  add: "by ADD",
  nri: "by NRI alone",
  proc: "by a process",
  pinned: "by an address",
};

function probeRules(node: NodeReport): Finding {
  const { fault, restored } = node.probes;
  if (isWithoutAmbient(node))
    return fine("probe-rules", withoutAmbient("the host needs no rules for kubelet probes"));
  if (fault !== null)
    return failing(
      "probe-rules",
      `kubelet probes are not let past ztunnel: ${fault}`,
      "the sentence names it",
    );
  if (restored > MANY_REPAIRS)
    return warning(
      "probe-rules",
      `the host's rules for kubelet probes were put back ${restored} times`,
      "look for what reloads the host's firewall (firewalld, a cron job)",
    );
  return fine("probe-rules", `in place, put back ${restored} times`);
}

function probePath(node: NodeReport): Finding {
  const { path } = node.probes;
  if (isWithoutAmbient(node)) return fine("probe-path", withoutAmbient("probes reach pods as they are"));
  if (path === null) return fine("probe-path", "not tried yet: it is when the first pod is captured");
  if (path.outcome === "bypassed") return fine("probe-path", path.message);
  return failing("probe-path", path.message, path.remedy ?? "see the chain's plugin");
}

function leftovers({ ambientLeftovers: left }: NodeReport): Finding | undefined {
  if (!left) return undefined;
  const { rules, captured, fault } = left;
  if (rules.length === 0)
    return warning(
      "ambient-leftovers",
      `cannot tell what ambient mode left on the host: ${fault}`,
      "the sentence names the cause; the agent tries again",
    );
  const what = `ambient mode is off, and the host still has ${rules.join(", ")}`;
  if (captured.length > 0)
    return warning(
      "ambient-leftovers",
      `${what}: network namespaces are captured still, ${captured.join(", ")}`,
      "their pods leave by themselves; one that stays cannot lose its annotation (`ambient-cni status` says why): delete it",
    );
  return warning(
    "ambient-leftovers",
    `${what}${fault === null ? "" : `: ${fault}`}`,
    "the agent tries again; once no pod is captured `ambient-cni uninstall` with the agent stopped removes it as well",
  );
}

function withoutAmbient(what: string): string {
  return `${what}: AMBIENT_ENABLED=false, sidecars alone are served`;
}

function pods({ pods: counts }: NodeReport, { pods: all }: PodListReport): Finding {
  const list = all.filter((pod) => !isServedSidecar(pod));
  const bad = list.filter(({ lastError, state }) => lastError !== null && state !== "unverified");
  const [first] = bad;
  if (first !== undefined) {
    const kinds = counts.failing.map(({ kind, count }) => `${count} ${kind}`).join(", ");
    const what = `${bad.length} pods are not right (${kinds}), for example ${first.ns}/${first.name}: ${first.lastError?.message}`;
    return failing("pods", what, first.lastError?.remedy ?? "see `ambient-cni status`");
  }
  const unverified = list.filter(({ state }) => state === "unverified");
  const [unknown] = unverified;
  if (unknown !== undefined) {
    const { ns, name, lastError } = unknown;
    const what = `${unverified.length} pods cannot be verified, for example ${ns}/${name}: ${lastError?.message}`;
    return warning(
      "pods",
      what,
      "see what changes network rules in them; they stay as they are until it ends",
    );
  }
  const what = `${counts.enrolled} of ${counts.wanted} wanted pods are captured, ${counts.verified} verified`;
  return counts.wanted > counts.enrolled
    ? warning("pods", what, "`ambient-cni status` says what the others wait for")
    : fine("pods", what);
}

function repairs({ repairs: all }: NodeReport): Finding {
  const total = all.reduce((sum, { count }) => sum + count, 0);
  const kinds = all.map(({ kind, count }) => `${count} ${kind}`).join(", ");
  if (total === 0) return fine("repairs", "no captured pod had to be repaired");
  const what = `captured pods were repaired ${total} times: ${kinds}`;
  return total > MANY_REPAIRS
    ? warning(
        "repairs",
        what,
        "look for a program in pods that changes iptables (a sidecar's istio-init, a VPN)",
      )
    : fine("repairs", what);
}
