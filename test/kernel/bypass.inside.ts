// SPDX-License-Identifier: Apache-2.0
// What bypass.test.ts does inside a node: captured pods get rules before the agent's, as a program with NET_ADMIN in them can write.

import assert from "node:assert/strict";
import { debugCommand } from "../../src/cli/debug-command.ts";
import { statusCommand } from "../../src/cli/status-command.ts";
import { verifyCommand } from "../../src/cli/verify-command.ts";
import type { VerifyReport } from "../../src/diagnose/verify-node.ts";
import type { PodDetailReport } from "../../src/status/state-report.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { ask } from "../status/state-client.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { iptablesSave } from "../support/node/kernel.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";

const socketPath = "/var/run/istio-cni/state.sock";
const reason = "AmbientMayBeBypassed";

const mesh = await MeshNode.start({ agentEnv: { RECONCILE_INTERVAL_SECONDS: "1" } });
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await mesh.startAgent();
await mesh.startZtunnel();
const server = await mesh.plainPods.runPodSandbox({ namespace: "plain", name: "server" });
const serverApp = await server.startApp();
await serverApp.call.serveHttp(8080);
const victim = await mesh.kubelet.runPod({ namespace: "mesh", name: "victim", labels: { app: "victim" } });
const app = await victim.startApp();
/** Has, all the time, what container networks and tools write into pods. */
const control = await mesh.kubelet.runPod({ namespace: "mesh", name: "control" });
await control.exec(["iptables-restore", "--noflush"], {
  stdin: `*nat
:DOCKER_OUTPUT -
-I OUTPUT 1 -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:36257
-I OUTPUT 1 -o lo -j ACCEPT
-I PREROUTING 1 -p icmp -j ACCEPT
COMMIT
*mangle
-I OUTPUT 1 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1300
-A OUTPUT -j MARK --set-mark 0x40000/0xff0000
COMMIT
*filter
-A OUTPUT -p tcp -j ACCEPT
COMMIT
`,
});
await control.exec(["nft", "-f", "-"], {
  stdin:
    "table inet wall { chain out { type filter hook output priority -300; tcp dport 22 counter accept; }; }\n",
});

/** Rules as they are written, and how they are taken out again. */
const attacks: Readonly<Record<string, { readonly hurt: string[][]; readonly heal: string[][] }>> = {
  "accept before our jump": {
    hurt: [["iptables", "-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "ACCEPT"]],
    heal: [["iptables", "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", "ACCEPT"]],
  },
  "ztunnel's mark in mangle": {
    hurt: [
      ["iptables", "-t", "mangle", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "MARK", "--set-mark", "0x539"],
    ],
    heal: [["iptables", "-t", "mangle", "-D", "OUTPUT", "-p", "tcp", "-j", "MARK", "--set-mark", "0x539"]],
  },
  "ztunnel's mark by iptables-legacy": {
    hurt: [
      // an Event in the same words as an earlier one would be that one
      ["iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-p", "icmp"],
      ["iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "-j", "MARK", "--set-mark", "0x539"],
    ],
    heal: [["iptables-legacy", "-t", "mangle", "-F", "OUTPUT"]],
  },
  "a table of its own at an earlier hook": {
    hurt: [
      [
        "nft",
        "add table ip z; add chain ip z o { type route hook output priority -300; }; add rule ip z o meta mark set 0x539",
      ],
    ],
    heal: [["nft", "delete table ip z"]],
  },
  "connections that are not tracked": {
    hurt: [["iptables", "-t", "raw", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "CT", "--notrack"]],
    heal: [["iptables", "-t", "raw", "-D", "OUTPUT", "-p", "tcp", "-j", "CT", "--notrack"]],
  },
};

/** What is seen of a pod. */
interface Seen {
  readonly kinds: readonly string[];
  readonly events: readonly string[];
  readonly verify: string;
  readonly status: string;
  readonly debug: string;
  readonly summary: string;
  readonly metric: string;
}

/** A pod's traffic goes past ztunnel while an attack lasts; what is said of it then, and what afterwards. */
export async function attack(name: string): Promise<{ isDirect: boolean; hurt: Seen; healed: Seen }> {
  const { hurt, heal } = attacks[name] as (typeof attacks)[string];
  const eventsBefore = eventsOf(victim).length;
  for (const command of hurt) await victim.exec(command);
  await waitFor("the metric", async () => (await metric()).endsWith(" 1"), { timeoutMs: 15_000 });
  const isDirect = await goesPast();
  await waitFor("the Event", () => eventsOf(victim).length > eventsBefore, { timeoutMs: 10_000 });
  // a later look says nothing new
  await looks(1);
  const seen = await see(eventsBefore);
  for (const command of heal) await victim.exec(command);
  await waitFor("the end", async () => (await metric()).endsWith(" 0"), { timeoutMs: 15_000 });
  return { isDirect, hurt: seen, healed: await see(eventsBefore + seen.events.length) };
}

/** What is said of the pod with harmless rules. */
export async function harmless(): Promise<{ bypasses: unknown; faults: string[]; events: string[] }> {
  const { observed } = await detail(control);
  return { bypasses: observed?.bypasses, faults: await faultsOf(control), events: eventsOf(control) };
}

async function see(eventsBefore: number): Promise<Seen> {
  const { observed, summary } = await detail(victim);
  return {
    kinds: (observed?.bypasses?.found ?? []).map(({ kind, table, chain }) => `${kind} ${table} ${chain}`),
    events: eventsOf(victim).slice(eventsBefore),
    verify: (await faultsOf(victim)).join("\n"),
    status: await output(statusCommand.run, ["mesh/victim"]),
    debug: await output(debugCommand.run, ["victim", "mesh"]),
    summary,
    metric: await metric(),
  };
}

/** Whether a connection of the victim's meets the server as it left the pod. */
async function goesPast(): Promise<boolean> {
  const { peer, own } = await app.call.get({ host: server.ip4, port: 8080, body: "x" });
  return peer.port === own.port;
}

async function looks(count: number): Promise<void> {
  const at = async () => (await list()).find(({ name }) => name === "victim")?.observed?.at ?? "";
  for (let seen = 0, last = await at(); seen < count; seen++)
    last = await waitFor(
      "another look",
      async () => {
        const next = await at();
        return next !== last && next;
      },
      // by the clock, ten times as seldom where changes are announced
      { timeoutMs: 15_000 },
    );
}

/** Another agent writes the same redirection into a captured pod, by another variant than ours, and goes. */
export async function otherVariant(): Promise<void> {
  const save = (variant: "nft" | "legacy") => iptablesSave(control.netns, 4, { variant });
  // as istio-cni writes it
  const text = (await save("nft")).replaceAll("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN ", "");
  const chains = /^(\*|:ISTIO_|-A .*ISTIO_|COMMIT)/;
  const stdin = text
    .split("\n")
    .filter((line) => chains.test(line))
    .join("\n");
  await control.exec(["iptables-legacy-restore", "--noflush"], { stdin: `${stdin}\n` });
  assert.match(await save("legacy"), /--to-ports 15001/);
  // one look finds them, the next takes them away, and a pod that is heard of is looked at every 8 s here
  await waitFor("its rules to be gone", async () => !(await save("legacy")).includes("ISTIO"), {
    timeoutMs: 40_000,
  });
  assert.match(await save("nft"), /--to-ports 15001/);
}

async function list() {
  return ((await ask({ socketPath }, "/api/v1/pods")).json() as unknown as { pods: PodDetailReport[] }).pods;
}

async function detail({ spec }: Pod): Promise<PodDetailReport> {
  const answer = await ask({ socketPath }, `/api/v1/pods/mesh/${spec.name}`);
  return answer.json() as unknown as PodDetailReport;
}

async function faultsOf({ spec }: Pod): Promise<string[]> {
  const text = await output(verifyCommand.run, ["--json", `mesh/${spec.name}`]);
  const { faults, unseen } = JSON.parse(text) as VerifyReport;
  return [...faults.map(({ kind, what }) => `${kind}: ${what}`), ...unseen];
}

async function output(run: typeof verifyCommand.run, args: readonly string[]): Promise<string> {
  const io = capturedIo(commandEnv);
  await run(args, io);
  return io.out();
}

async function metric(): Promise<string> {
  const text = await mesh.agent.metrics();
  return text.split("\n").find((line) => line.startsWith("ambient_cni_pods_may_be_bypassed")) ?? "none";
}

function eventsOf({ uid }: Pod): string[] {
  return mesh.api.store.list("events").flatMap((object) => {
    const event = object as unknown as {
      readonly involvedObject: { readonly uid: string };
      readonly reason: string;
      readonly type: string;
      readonly message: string;
    };
    const isIt = event.involvedObject.uid === uid && event.reason === reason;
    return isIt ? [`${event.type}: ${event.message}`] : [];
  });
}
