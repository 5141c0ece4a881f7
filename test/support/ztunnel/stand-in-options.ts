// SPDX-License-Identifier: Apache-2.0
// The command line of the stand-in, read and written in one place.
import { parseArgs } from "node:util";
import { type KnownWorkload, parseWorkloads } from "./known-workloads.ts";
import { type Rule, rules } from "./strictness.ts";

/** How a stand-in behaves; everything but `socket` has a default. */
export interface StandInOptions {
  /** The agent's ZDS socket. */
  readonly socket: string;
  /** `protocol`: only hold the descriptors. `sockets`: open and serve what ztunnel opens in a pod (needs root). */
  readonly depth?: "protocol" | "sockets";
  /** Switches of faults.ts, for example `ack-delay=100`. */
  readonly faults?: readonly string[];
  /** Rules of strictness.ts to switch off. */
  readonly allow?: readonly Rule[];
  /** Names it answers for, each `name=address`. */
  readonly dns?: readonly string[];
  /** Nameservers that get the other names, from inside the pod; default those of /etc/resolv.conf. */
  readonly nameservers?: readonly string[];
  /** Go from pod to pod through port 15008, on connections that are kept; default true. */
  readonly hbone?: boolean;
  /** What it knows of the mesh; default the pods it holds. Connections of a pod that is not known wait 5 s and end. */
  readonly workloads?: readonly KnownWorkload[];
  /** Reset everything that arrives on 15006 and 15008. */
  readonly refuseInbound?: boolean;
  /** Longest pause between two attempts to reach the agent; default ztunnel's 15 s. */
  readonly maxBackoffMs?: number;
  /** Pause before pods that were refused are tried again; default ztunnel's 5 s. */
  readonly retryMs?: number;
  /** How long open connections may last after SIGTERM; default ztunnel's 5 s. */
  readonly terminationMs?: number;
  /** File to append the events to. */
  readonly log?: string;
  /** Take commands on stdin, and end when stdin ends. */
  readonly control?: boolean;
}

const ztunnelMaxBackoffMs = 15_000;
const ztunnelRetryMs = 5_000;
const ztunnelTerminationMs = 5_000;

/** Options as arguments of main.ts. */
export function formatOptions(options: StandInOptions): string[] {
  const args = ["--socket", options.socket];
  if (options.depth !== undefined) args.push("--depth", options.depth);
  for (const fault of options.faults ?? []) args.push("--fault", fault);
  for (const rule of options.allow ?? []) args.push("--allow", rule);
  for (const entry of options.dns ?? []) args.push("--dns", entry);
  for (const address of options.nameservers ?? []) args.push("--nameserver", address);
  if (options.hbone === false) args.push("--no-hbone");
  if (options.workloads !== undefined) args.push("--workloads", JSON.stringify(options.workloads));
  if (options.refuseInbound === true) args.push("--refuse-inbound");
  if (options.maxBackoffMs !== undefined) args.push("--max-backoff-ms", String(options.maxBackoffMs));
  if (options.retryMs !== undefined) args.push("--retry-ms", String(options.retryMs));
  if (options.terminationMs !== undefined) args.push("--termination-ms", String(options.terminationMs));
  if (options.log !== undefined) args.push("--log", options.log);
  if (options.control === true) args.push("--control");
  return args;
}

type Optional = "log" | "nameservers" | "workloads";

/** All options, those with a default filled in. */
export type ParsedOptions = Required<Omit<StandInOptions, Optional>> & Pick<StandInOptions, Optional>;

/** Reads main.ts's arguments. @throws TypeError, RangeError, SyntaxError */
export function parseOptions(args: readonly string[]): ParsedOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      socket: { type: "string" },
      depth: { type: "string", default: "protocol" },
      fault: { type: "string", multiple: true, default: [] },
      allow: { type: "string", multiple: true, default: [] },
      dns: { type: "string", multiple: true, default: [] },
      nameserver: { type: "string", multiple: true },
      "no-hbone": { type: "boolean", default: false },
      workloads: { type: "string" },
      "refuse-inbound": { type: "boolean", default: false },
      "max-backoff-ms": { type: "string", default: String(ztunnelMaxBackoffMs) },
      "retry-ms": { type: "string", default: String(ztunnelRetryMs) },
      "termination-ms": { type: "string", default: String(ztunnelTerminationMs) },
      log: { type: "string" },
      control: { type: "boolean", default: false },
    },
  });
  if (values.socket === undefined)
    throw new RangeError("Cannot start the stand-in: --socket PATH is missing");
  if (values.depth !== "protocol" && values.depth !== "sockets") {
    throw new RangeError(`Cannot start the stand-in at depth "${values.depth}": it is protocol or sockets`);
  }
  return {
    socket: values.socket,
    depth: values.depth,
    faults: values.fault,
    allow: values.allow.map(asRule),
    dns: values.dns,
    hbone: !values["no-hbone"],
    refuseInbound: values["refuse-inbound"],
    maxBackoffMs: Number(values["max-backoff-ms"]),
    retryMs: Number(values["retry-ms"]),
    terminationMs: Number(values["termination-ms"]),
    control: values.control,
    ...(values.nameserver === undefined ? {} : { nameservers: values.nameserver }),
    ...(values.workloads === undefined ? {} : { workloads: parseWorkloads(values.workloads) }),
    ...(values.log === undefined ? {} : { log: values.log }),
  };
}

function asRule(name: string): Rule {
  if (!Object.hasOwn(rules, name)) {
    throw new RangeError(`Cannot allow "${name}": the rules are ${Object.keys(rules).join(", ")}`);
  }
  return name as Rule;
}

/** `name=address` entries as a table. @throws RangeError */
export function parseDnsTable(entries: readonly string[]): Map<string, string[]> {
  const table = new Map<string, string[]>();
  for (const entry of entries) {
    const [name, address] = entry.split("=");
    if (!name || !address) throw new RangeError(`Cannot read the DNS entry "${entry}": it is name=address`);
    table.set(name.toLowerCase(), [...(table.get(name.toLowerCase()) ?? []), address]);
  }
  return table;
}
