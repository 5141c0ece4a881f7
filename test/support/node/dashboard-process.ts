// SPDX-License-Identifier: Apache-2.0
// `ambient-cni dashboard` as a process of a test node: the page beside the agent, which it asks through its socket.
import { AGENT_BUNDLE } from "./agent-process.ts";
import { commandEnv } from "./command-env.ts";
import { ManagedProcess } from "./managed-process.ts";
import { cleanEnv } from "./run.ts";

/** A running dashboard; it ends with the test node. */
export class DashboardProcess extends ManagedProcess {
  /** Where it is on the node's loopback address, `http://127.0.0.1:PORT/`. */
  readonly url: string;

  private constructor(argv: readonly string[], url: string) {
    super(argv, { name: "dashboard", env: cleanEnv(commandEnv) });
    this.url = url;
  }

  /** Starts it, and waits until it serves; the node's agent has to answer by then. */
  static async start(port = 15015): Promise<DashboardProcess> {
    const argv = [process.execPath, AGENT_BUNDLE, "dashboard", "--port", String(port), "--idle-minutes", "0"];
    const dashboard = new DashboardProcess(argv, `http://127.0.0.1:${port}/`);
    await dashboard.untilLine("its address", ({ text }) => text === dashboard.url);
    return dashboard;
  }
}
