// SPDX-License-Identifier: Apache-2.0
// What verify.test.ts does inside a node: a real agent captures real pods; then it is stopped, its answers are served again,
// and the kernel is hurt while nobody repairs it.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readlink } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "../../src/cli/command.ts";
import { debugCommand } from "../../src/cli/debug-command.ts";
import { doctorCommand } from "../../src/cli/doctor-command.ts";
import { statusCommand } from "../../src/cli/status-command.ts";
import { verifyCommand } from "../../src/cli/verify-command.ts";
import type { VerifyReport } from "../../src/diagnose/verify-node.ts";
import type { PodListReport } from "../../src/status/state-report.ts";
import { capturedIo } from "../cli/captured-io.ts";
import { type Answers, RecordedAgent } from "../cli/recorded-agent.ts";
import { ask } from "../status/state-client.ts";
import { joinCgroup } from "../support/node/cgroup.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { startFleet } from "./verified-fleet.ts";

const socketPath = "/var/run/istio-cni/state.sock";

const mesh = await MeshNode.start({
  agentEnv: { RECONCILE_INTERVAL_SECONDS: "3600", KERNEL_NOTICES: "false" },
});
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
mesh.kubelet.createNamespace("fleet");
await mesh.startAgent();
await mesh.startZtunnel();
const web = await mesh.kubelet.runPod({ namespace: "mesh", name: "web", labels: { app: "shop" } });
const quiet = await mesh.kubelet.runPod({
  namespace: "mesh",
  name: "quiet",
  annotations: { "ambient.istio.io/dns-capture": "false", "ambient.istio.io/bypass-inbound-capture": "true" },
});
const outsider = await mesh.kubelet.runPod({ namespace: "plain", name: "outsider" });
const annotation = (pod: Pod) => mesh.kubelet.annotation(pod, "ambient.istio.io/redirection");
await waitFor("the annotations", () => annotation(web) === "enabled" && annotation(quiet) === "enabled");
let recorded: RecordedAgent | undefined;

/** How a command ended. */
export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly ms: number;
}

const commands: Readonly<Record<string, Command>> = {
  verify: verifyCommand,
  status: statusCommand,
  doctor: doctorCommand,
  debug: debugCommand,
};

/** Runs a command in this process. */
export async function command(name: string, args: readonly string[]): Promise<Outcome> {
  const io = capturedIo(commandEnv);
  const startMs = performance.now();
  const code = await (commands[name] as Command).run(args, io);
  return { code, out: io.out(), err: io.err(), ms: performance.now() - startMs };
}

/** Runs it as a user does: a process of its own. */
export async function commandProcess(
  args: readonly string[],
  more: Record<string, string> = {},
): Promise<Outcome> {
  const script = join(import.meta.dirname, "../cli/command-process.ts");
  const startMs = performance.now();
  const { code, stdout, stderr } = await run([process.execPath, script, ...args], {
    mayFail: true,
    env: { ...commandEnv, ...more },
  });
  return { code, out: stdout, err: stderr, ms: performance.now() - startMs };
}

/** Ends the agent; what it said last is served in its place. */
export async function freeze(): Promise<void> {
  const answers: Answers = new Map();
  const paths = ["/api/v1/pods", "/api/v1/node", "/api/v1/pods/mesh/web", "/api/v1/pods/plain/outsider"];
  for (const path of paths) answers.set(path, (await ask({ socketPath }, path)).json());
  await mesh.agent.kill();
  recorded = await RecordedAgent.start(socketPath, answers);
}

/** Nobody answers any more. */
export async function silence(): Promise<void> {
  await recorded?.stop();
}

type Step = readonly string[] | (() => Promise<unknown>);

const nat = (tool: string, ...args: string[]): string[] => [tool, "-t", "nat", ...args];
const v4Set = "istio-inpod-probes-v4";
/** Restores whatever was there before: saved once, when all is right. */
let saved: Record<string, string> = {};

async function save(pod: Pod): Promise<void> {
  const tables = async (tool: string) => (await pod.exec([tool])).stdout;
  saved = {
    "iptables-restore": await tables("iptables-save"),
    "ip6tables-restore": await tables("ip6tables-save"),
  };
}

async function restore(pod: Pod): Promise<void> {
  await pod.exec(["nft", "flush", "ruleset"]);
  for (const [tool, input] of Object.entries(saved)) await pod.exec([tool], { stdin: input });
  for (const family of ["-4", "-6"]) {
    await pod.exec(["ip", family, "rule", "del", "pref", "32764"], { mayFail: true });
    const rule = ["fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"];
    await pod.exec(["ip", family, "rule", "add", ...rule]);
    await pod.exec(["ip", family, "route", "replace", "local", "default", "dev", "lo", "table", "100"]);
  }
}

/** What the agent says of the pod's annotation. */
async function annotate(pod: Pod, value: string | null): Promise<void> {
  const list = structuredClone(recorded?.answers.get("/api/v1/pods")) as PodListReport;
  const pods = list.pods.map((each) => (each.uid === pod.uid ? { ...each, annotation: value } : each));
  recorded?.answers.set("/api/v1/pods", { ...list, pods });
}

async function blankPod(): Promise<void> {
  await web.exec(["nft", "flush", "ruleset"]);
  for (const family of ["-4", "-6"]) {
    await web.exec(["ip", family, "rule", "del", "pref", "32764"]);
    await web.exec(["ip", family, "route", "flush", "table", "100"]);
  }
}

async function toLegacy(): Promise<void> {
  await web.exec(["nft", "flush", "ruleset"]);
  for (const [tool, input] of Object.entries(saved)) {
    await web.exec([tool.replace("tables-", "tables-legacy-")], { stdin: input });
  }
}

async function clearLegacy(): Promise<void> {
  for (const tool of ["iptables-legacy", "ip6tables-legacy"]) {
    for (const table of ["mangle", "nat", "raw"]) {
      await web.exec([tool, "-t", table, "-F"]);
      await web.exec([tool, "-t", table, "-X"]);
    }
  }
  await restore(web);
}

/** Another process takes the pod's place, in a namespace that has its address: the sandbox was replaced behind all backs. */
async function swap(): Promise<() => Promise<void>> {
  const script = `ip link set lo up && ip addr add ${web.ip4}/32 dev lo && echo ready && exec sleep infinity`;
  const usurper = spawn("unshare", ["--net", "sh", "-c", script], {
    env: cleanEnv(),
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(usurper.stdout as NodeJS.ReadableStream, "data");
  const parked = join(web.cgroup, "../parked");
  await joinCgroup(parked, web.pid);
  await joinCgroup(join(web.cgroup, "b".repeat(64)), usurper.pid as number);
  return async () => {
    const gone = once(usurper, "exit");
    usurper.kill("SIGKILL");
    await gone;
    await joinCgroup(join(web.cgroup, web.sandbox.id), web.pid);
  };
}

/** Faults by name: what is done, and how it is undone. */
const plants: Readonly<Record<string, { readonly hurt: readonly Step[]; readonly heal: readonly Step[] }>> = {
  "missing jump": {
    hurt: [nat("ip6tables", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")],
    heal: [() => restore(web)],
  },
  "reordered rules": {
    hurt: [
      nat(
        "iptables",
        "-D",
        "ISTIO_OUTPUT",
        "-d",
        "169.254.7.127/32",
        "-p",
        "tcp",
        "-m",
        "tcp",
        "-j",
        "ACCEPT",
      ),
      nat(
        "iptables",
        "-A",
        "ISTIO_OUTPUT",
        "-d",
        "169.254.7.127/32",
        "-p",
        "tcp",
        "-m",
        "tcp",
        "-j",
        "ACCEPT",
      ),
    ],
    heal: [() => restore(web)],
  },
  "deleted ip rule": { hurt: [["ip", "-4", "rule", "del", "pref", "32764"]], heal: [() => restore(web)] },
  "missing route": { hurt: [["ip", "-6", "route", "flush", "table", "100"]], heal: [() => restore(web)] },
  "wrong table backend": { hurt: [toLegacy], heal: [clearLegacy] },
  "rules in both backends": {
    hurt: [["iptables-legacy", "-t", "nat", "-N", "ISTIO_OUTPUT"]],
    heal: [clearLegacy],
  },
  "foreign chain with our name": {
    hurt: [
      nat("iptables", "-F", "ISTIO_OUTPUT"),
      nat(
        "iptables",
        "-A",
        "ISTIO_OUTPUT",
        "-p",
        "tcp",
        "-m",
        "owner",
        "--uid-owner",
        "1337",
        "-j",
        "RETURN",
      ),
      nat("iptables", "-A", "ISTIO_OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"),
    ],
    heal: [() => restore(web)],
  },
  "foreign chain in another table": {
    hurt: [["iptables", "-t", "filter", "-N", "ISTIO_OUTPUT"]],
    heal: [["iptables", "-t", "filter", "-X", "ISTIO_OUTPUT"], () => restore(web)],
  },
  "table of an istio-cni with NATIVE_NFTABLES": {
    hurt: [["nft", "add table inet istio-ambient-nat"]],
    heal: [["nft", "delete table inet istio-ambient-nat"]],
  },
  "a rule that only nft can read": {
    hurt: [["nft", "add rule ip nat ISTIO_OUTPUT meta hour 5-6 accept"]],
    heal: [() => restore(web)],
  },
  "a table that was put to sleep": {
    hurt: [["nft", "add table ip nat { flags dormant ; }"]],
    heal: [["nft", "add table ip nat"]],
  },
  "a base chain that hangs elsewhere": {
    hurt: [
      ["nft", "flush chain ip nat PREROUTING"],
      ["nft", "delete chain ip nat PREROUTING"],
      ["nft", "add chain ip nat PREROUTING { type nat hook prerouting priority 7 ; }"],
    ],
    heal: [() => restore(web)],
  },
  "missing set entry": {
    hurt: [() => run(["ipset", "del", v4Set, web.ip4])],
    heal: [() => run(["ipset", "add", v4Set, web.ip4, "comment", web.uid])],
  },
  "stale set entry": {
    hurt: [() => run(["ipset", "add", v4Set, "10.250.0.1", "comment", crypto.randomUUID()])],
    heal: [() => run(["ipset", "del", v4Set, "10.250.0.1"])],
  },
  "set entry of another pod": {
    hurt: [() => run(["ipset", "-exist", "add", v4Set, web.ip4, "comment", quiet.uid])],
    heal: [() => run(["ipset", "-exist", "add", v4Set, web.ip4, "comment", web.uid])],
  },
  "host chain flushed": {
    hurt: [() => run(["iptables", "-t", "nat", "-D", "POSTROUTING", "-j", "ISTIO_POSTRT"])],
    heal: [() => run(["iptables", "-t", "nat", "-I", "POSTROUTING", "1", "-j", "ISTIO_POSTRT"])],
  },
  "annotation without capture": { hurt: [blankPod], heal: [() => restore(web)] },
  "annotation on an outsider": {
    hurt: [() => annotate(outsider, "enabled")],
    heal: [() => annotate(outsider, null)],
  },
  "nothing captured": {
    hurt: [blankPod, () => annotate(web, null)],
    heal: [() => restore(web), () => annotate(web, "enabled")],
  },
  "capture without annotation": {
    hurt: [() => annotate(web, null)],
    heal: [() => annotate(web, "enabled")],
  },
  "captured outsider": {
    hurt: [
      () => outsider.exec(["ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100"]),
    ],
    heal: [() => outsider.exec(["ip", "rule", "del", "pref", "32764"])],
  },
};

async function act(steps: readonly Step[]): Promise<void> {
  for (const step of steps) await (typeof step === "function" ? step() : web.exec(step));
}

/** Plants a fault, verifies, takes it away and verifies again. @returns exit code and faults, then those after healing */
export async function plant(name: string): Promise<{ code: number; faults: string[]; healed: string[] }> {
  if (Object.keys(saved).length === 0) await save(web);
  const { hurt, heal } = plants[name] as (typeof plants)[string];
  await act(hurt);
  const seen = await verify();
  await act(heal);
  return { ...seen, healed: (await verify()).faults };
}

/** The namespace is swapped. */
export async function plantSwap(): Promise<{ code: number; faults: string[]; healed: string[] }> {
  const heal = await swap();
  const seen = await verify();
  await heal();
  return { ...seen, healed: (await verify()).faults };
}

/** ztunnel ends, and its sockets with it. Cannot be taken back: nobody hands a new one the pods. */
export async function plantNoSockets(): Promise<{ code: number; faults: string[] }> {
  await mesh.ztunnel.kill();
  return await verify();
}

async function verify(): Promise<{ code: number; faults: string[] }> {
  const { code, out } = await command("verify", ["--json"]);
  const { faults, unverified, unseen } = JSON.parse(out) as VerifyReport;
  const named = [...faults, ...unverified].map(({ kind, pod }) => `${kind} ${pod}`);
  return { code, faults: [...named, ...unseen] };
}

/** More pods, found and captured after one label. */
export async function fleet(count: number): Promise<void> {
  await startFleet(mesh, "fleet", count);
  mesh.kubelet.labelNamespace("fleet", { "istio.io/dataplane-mode": "ambient" });
  const captured = async (): Promise<number> => {
    const { pods } = (await ask({ socketPath }, "/api/v1/pods")).json() as unknown as PodListReport;
    return pods.filter(({ state, annotation: written }) => state === "enrolled" && written === "enabled")
      .length;
  };
  await waitFor("the fleet", async () => (await captured()) >= count + 2, {
    timeoutMs: 90_000,
    intervalMs: 300,
  });
}

/** Where the namespaces of this process are: looking must leave it where it was. */
export async function ownNetns(): Promise<string> {
  return await readlink("/proc/self/ns/net");
}
