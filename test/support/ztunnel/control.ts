// SPDX-License-Identifier: Apache-2.0
// Commands from a test: one JSON object per line on stdin, each answered by one "answer" event on stdout.
import { createInterface } from "node:readline";
import type { EventLog } from "./event-log.ts";
import type { KnownWorkload } from "./known-workloads.ts";
import type { StandInStats, ZtunnelProcess } from "./ztunnel-process.ts";

/** What a stand-in can be told while it runs. */
export type StandInCommand =
  | { readonly do: "stats" }
  | { readonly do: "faults"; readonly set: readonly string[] }
  | { readonly do: "refuse-inbound"; readonly on: boolean }
  /** Without a list: the pods it holds. */
  | { readonly do: "workloads"; readonly set?: readonly KnownWorkload[] }
  | { readonly do: "reconnect" }
  | { readonly do: "send"; readonly hex: string };

/** Serves commands until stdin ends. */
export function serveCommands(
  ztunnel: ZtunnelProcess,
  { log, onend }: { log: EventLog; onend: () => void },
): void {
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const { id, ...command } = JSON.parse(line) as StandInCommand & { id: number };
    try {
      log.write("answer", { id, stats: obey(ztunnel, command) });
    } catch (error) {
      log.write("answer", { id, error: (error as Error).message });
    }
  });
  lines.on("close", onend);
}

function obey(ztunnel: ZtunnelProcess, command: StandInCommand): StandInStats | undefined {
  switch (command.do) {
    case "stats":
      return ztunnel.stats();
    case "faults":
      return void ztunnel.setFaults(command.set);
    case "refuse-inbound":
      return void ztunnel.setRefuseInbound(command.on);
    case "workloads":
      return void ztunnel.setWorkloads(command.set);
    case "reconnect":
      return void ztunnel.reconnect();
    case "send":
      return void ztunnel.sendRaw(Buffer.from(command.hex, "hex"));
  }
}
