// SPDX-License-Identifier: Apache-2.0
// One look at a pod's network namespace with the system's own tools, and what is wrong with what is seen.
import type { Family } from "../support/node/kernel.ts";
import type { Pod } from "../support/node/pod.ts";
import { foreignAddress } from "./kubelet-pod.ts";
import type { PodModel } from "./node-model.ts";
import { capturedRules, readTables } from "./pod-rules.ts";

/** What the tools printed, by the name of the question. */
export type PodLook = Readonly<Record<Question, string>>;

const questions = {
  save4: "iptables-nft-save",
  save6: "ip6tables-nft-save",
  rules4: "ip -4 rule show",
  rules6: "ip -6 rule show",
  routes4: "ip -4 route show table 100",
  routes6: "ip -6 route show table 100",
  sockets: "ss -Hltnu",
} as const;
type Question = keyof typeof questions;

const families: readonly Family[] = [4, 6];
const ztunnelPorts = ["15001", "15006", "15008", "15053"];
const separator = "--- ";

/** Asks everything with one process: thirty pods are looked at again and again. */
export async function lookAtPod(pod: Pod): Promise<PodLook> {
  const script = Object.entries(questions).map(
    ([name, command]) => `echo "${separator}${name}"; ${command} 2>/dev/null`,
  );
  const { stdout } = await pod.exec(["sh", "-c", script.join("\n")], { mayFail: true });
  const parts = stdout.split(separator).slice(1);
  const answers = parts.map((part): [string, string] => {
    const end = part.indexOf("\n");
    return [part.slice(0, end), part.slice(end + 1)];
  });
  return Object.fromEntries(answers) as PodLook;
}

/** What differs from the state a pod should be in; one line each. */
export function faultsOfLook(look: PodLook, pod: PodModel, captured: boolean): string[] {
  const faults = families.flatMap((family) => [
    ...ruleFaults(look, family, captured ? capturedRules(family, pod.overrides) : {}),
    ...routingFaults(look, family, captured),
  ]);
  const open = ztunnelPorts.filter((port) => new RegExp(`:${port}\\s`).test(look.sockets));
  if (captured && open.length < ztunnelPorts.length)
    faults.push(`ztunnel serves only ${open.join(", ") || "nothing"}`);
  if (!captured && open.length > 0) faults.push(`ztunnel still serves ${open.join(", ")}`);
  for (const [table, wanted] of [["filter", pod.foreignFilter] as const, ["nat", pod.foreignNat] as const]) {
    const there = readTables(look.save4)
      .get(table)
      ?.others.includes(`-A OUTPUT -d ${foreignAddress} -j ACCEPT`);
    if ((there ?? false) !== wanted)
      faults.push(`somebody else's ${table} rule is ${wanted ? "gone" : "there"}`);
  }
  return faults;
}

function ruleFaults(look: PodLook, family: Family, wanted: Readonly<Record<string, string[]>>): string[] {
  const faults: string[] = [];
  const tables = readTables(family === 4 ? look.save4 : look.save6);
  for (const name of new Set([...tables.keys(), ...Object.keys(wanted)])) {
    const where = `IPv${family} ${name}`;
    const own = tables.get(name)?.own ?? [];
    const rules = wanted[name] ?? [];
    const missing = rules.filter((rule) => !own.includes(rule));
    const extra = own.filter((rule) => !rules.includes(rule));
    if (missing.length > 0) faults.push(`${where} lacks ${missing.join(" and ")}`);
    if (extra.length > 0) faults.push(`${where} has ${extra.join(" and ")}`);
    if (missing.length + extra.length === 0 && own.join() !== rules.join())
      faults.push(`${where}: wrong order`);
    const jumps = rules.length > 0 ? ["-A PREROUTING -j ISTIO_PRERT", "-A OUTPUT -j ISTIO_OUTPUT"] : [];
    const found = tables.get(name)?.jumps ?? [];
    if (found.join() !== jumps.join())
      faults.push(`${where} is entered by ${found.join(" and ") || "nothing"}`);
    const chains = jumps.map((jump) => jump.split(" ").at(-1) as string).sort();
    const there = tables.get(name)?.chains ?? [];
    if (there.join() !== chains.join()) faults.push(`${where} has the chains ${there.join(", ") || "none"}`);
  }
  return faults;
}

function routingFaults(look: PodLook, family: Family, captured: boolean): string[] {
  const faults: string[] = [];
  const rules = lines(family === 4 ? look.rules4 : look.rules6).filter((line) => line.includes("fwmark"));
  const right = /^32764:\s+from all fwmark 0x111\/0xfff lookup 100$/;
  if (rules.length !== (captured ? 1 : 0) || rules.some((line) => !right.test(line)))
    faults.push(`IPv${family} ip rules: ${rules.join("; ") || "none"}`);
  const routes = lines(family === 4 ? look.routes4 : look.routes6);
  const local = /^local (default|0\.0\.0\.0\/0|::\/0) dev lo\b/;
  if (routes.length !== (captured ? 1 : 0) || routes.some((line) => !local.test(line)))
    faults.push(`IPv${family} routes of table 100: ${routes.join("; ") || "none"}`);
  return faults;
}

function lines(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}
