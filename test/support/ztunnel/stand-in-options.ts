// SPDX-License-Identifier: Apache-2.0
// The command line of the stand-in, read and written in one place.
import { parseArgs } from "node:util";
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
  /** Go from pod to pod through port 15008. */
  readonly hbone?: boolean;
  /** Reset everything that arrives on 15006 and 15008. */
  readonly refuseInbound?: boolean;
  readonly maxBackoffMs?: number;
  readonly retryMs?: number;
  /** File to append the events to. */
  readonly log?: string;
  /** Take commands on stdin, and end when stdin ends. */
  readonly control?: boolean;
}

const ztunnelMaxBackoffMs = 15_000;
const ztunnelRetryMs = 5_000;

/** Options as arguments of main.ts. */
export function formatOptions(options: StandInOptions): string[] {
  const args = ["--socket", options.socket];
  if (options.depth !== undefined) args.push("--depth", options.depth);
  for (const fault of options.faults ?? []) args.push("--fault", fault);
  for (const rule of options.allow ?? []) args.push("--allow", rule);
  for (const entry of options.dns ?? []) args.push("--dns", entry);
  if (options.hbone === true) args.push("--hbone");
  if (options.refuseInbound === true) args.push("--refuse-inbound");
  if (options.maxBackoffMs !== undefined) args.push("--max-backoff-ms", String(options.maxBackoffMs));
  if (options.retryMs !== undefined) args.push("--retry-ms", String(options.retryMs));
  if (options.log !== undefined) args.push("--log", options.log);
  if (options.control === true) args.push("--control");
  return args;
}

/** Reads main.ts's arguments. @throws TypeError, RangeError */
export function parseOptions(
  args: readonly string[],
): Required<Omit<StandInOptions, "log">> & { log?: string } {
  const { values } = parseArgs({
    args: [...args],
    options: {
      socket: { type: "string" },
      depth: { type: "string", default: "protocol" },
      fault: { type: "string", multiple: true, default: [] },
      allow: { type: "string", multiple: true, default: [] },
      dns: { type: "string", multiple: true, default: [] },
      hbone: { type: "boolean", default: false },
      "refuse-inbound": { type: "boolean", default: false },
      "max-backoff-ms": { type: "string", default: String(ztunnelMaxBackoffMs) },
      "retry-ms": { type: "string", default: String(ztunnelRetryMs) },
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
    hbone: values.hbone,
    refuseInbound: values["refuse-inbound"],
    maxBackoffMs: Number(values["max-backoff-ms"]),
    retryMs: Number(values["retry-ms"]),
    control: values.control,
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
