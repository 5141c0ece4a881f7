// SPDX-License-Identifier: Apache-2.0
// What runtime-calls.json holds: calls that runtimes and meta plugins make, and what has to come of them.
import data from "./runtime-calls.json" with { type: "json" };

/** The agent ends by SIGKILL, or a new one is ready. */
export interface AgentStep {
  readonly agent: "killed" | "started";
}

/** One execution of the launcher; one that does not fail prints `answers`, or nothing, before it would have waited for an agent. */
export interface CallStep {
  readonly verb: "ADD" | "DEL" | "CHECK" | "GC" | "STATUS";
  /** Whose CNI_CONTAINERID, CNI_NETNS and CNI_ARGS are set; of no pod: none of them is. */
  readonly pod?: string;
  readonly ifname?: string;
  /** In place of the pod's namespace. */
  readonly netns?: string;
  /** Fields of our entry besides `cniVersion` and those that the agent writes. */
  readonly config: Readonly<Record<string, unknown>>;
  /** What is printed, as JSON. */
  readonly answers?: unknown;
  /** Regular expression for the message of a call that is to fail. */
  readonly fails?: string;
  /** How the pod is afterwards, by what the kernel says. */
  readonly then?: "captured" | "untouched";
}

/** Calls in the order in which they were seen. */
export interface Play {
  readonly name: string;
  /** Who made them. */
  readonly seen: string;
  readonly args: keyof typeof data.args;
  readonly cniVersions: readonly string[];
  /** Namespaces of the pods by the names that the steps have for them. */
  readonly pods: Readonly<Record<string, string>>;
  readonly steps: readonly (AgentStep | CallStep)[];
}

/** CNI_ARGS of each runtime, with `{namespace}`, `{name}`, `{uid}` and `{container}` in the places of values. */
export const argsOf: Readonly<Record<keyof typeof data.args, string>> = data.args;

/** All of them. */
export const plays = data.plays as readonly Play[];
