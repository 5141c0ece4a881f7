// SPDX-License-Identifier: Apache-2.0
// `ambient-cni dashboard` as a process of a test node: the page beside the agent, which it asks through its socket.
import { AGENT_BUNDLE } from "./agent-process.ts";
import { commandEnv } from "./command-env.ts";
import { ManagedProcess } from "./managed-process.ts";
import { cleanEnv } from "./run.ts";

/** A running dashboard; it ends with the test node. */
export class DashboardProcess extends ManagedProcess {
  private constructor(argv: readonly string[]) {
    super(argv, { name: "dashboard", env: cleanEnv(commandEnv) });
  }

  /** The address that it printed, on the node's loopback and with its key. */
  get url(): string {
    return this.lines[0]?.text ?? "";
  }

  /** A path of it, with the key. */
  at(path: string): URL {
    const { origin, search } = new URL(this.url);
    return new URL(`${path}${search}`, origin);
  }

  /** Starts it, and waits until it serves; the node's agent has to answer by then. */
  static async start(port = 15015): Promise<DashboardProcess> {
    const argv = [process.execPath, AGENT_BUNDLE, "dashboard", "--port", String(port), "--idle-minutes", "0"];
    const dashboard = new DashboardProcess(argv);
    await dashboard.untilLine("its address", ({ text }) => text.startsWith("http://127.0.0.1:"));
    return dashboard;
  }
}
