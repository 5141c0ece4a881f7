// SPDX-License-Identifier: Apache-2.0
// `ambient-cni dashboard`: serves a live page of the node to browsers, for as long as somebody wants it.
import type { DashboardServer } from "../dashboard/dashboard-server.ts";
import { beFirstToEnd } from "../linux/oom-score.ts";
import { type Clock, systemClock } from "../loop/clock.ts";
import { type Command, type CommandIo, parseNumber, parseOptions } from "./command.ts";
import { stateClient } from "./state-client.ts";

const AGENT_TIMEOUT_MS = 3_000;
/** Where the page is served, on 127.0.0.1. */
export const DASHBOARD_PORT = 15015;
const DEFAULT_IDLE_MINUTES = "30";
const MAX_IDLE_MINUTES = 10_080;

/** `ambient-cni dashboard`. */
export const dashboardCommand: Command = {
  name: "dashboard",
  summary: "serve a live page of this node on the loopback address",
  options: ["port", "idle-minutes", "help"],
  help: `usage: ambient-cni dashboard [--port PORT] [--idle-minutes MINUTES]

Serves a page with the node, its pods and the rules of each, with their counters, on 127.0.0.1 until interrupted. It asks the agent
through its socket and reads rules in the kernel itself, as "ambient-cni debug" does; nothing is written. The address that it
prints has a key, without which nothing is shown: other users of the node reach 127.0.0.1 as well. It is that of the network
namespace in which the command runs: forward the port to look from elsewhere.

options:
  --port PORT              on 127.0.0.1, default ${DASHBOARD_PORT}; 0 takes any free one
  --idle-minutes MINUTES   end when no page was open for so long, default ${DEFAULT_IDLE_MINUTES}; 0: never

exit code: 0 ended by itself, 1 no agent answers or the port is taken, 2 wrong usage

examples:
  ambient-cni dashboard
  kubectl -n istio-system exec -it POD -- ambient-cni dashboard    # and, in a second terminal:
  kubectl -n istio-system port-forward POD ${DASHBOARD_PORT}
  ssh -t -L ${DASHBOARD_PORT}:127.0.0.1:${DASHBOARD_PORT} root@NODE ambient-cni dashboard
`,
  run: runDashboard,
};

async function runDashboard(args: readonly string[], io: CommandIo): Promise<number> {
  const values = parseOptions("dashboard", args, {
    port: { type: "string", default: String(DASHBOARD_PORT) },
    "idle-minutes": { type: "string", default: DEFAULT_IDLE_MINUTES },
  });
  const port = parseNumber("port", values.port, { max: 65_535 });
  const idleMs = 60_000 * parseNumber("idle-minutes", values["idle-minutes"], { max: MAX_IDLE_MINUTES });
  const config = io.config();
  const agent = stateClient(config.runDir, { timeoutMs: AGENT_TIMEOUT_MS });
  // who gave another run dir than the agent's hears it before a browser is opened
  await agent.node();
  await beFirstToEnd();
  const [{ DashboardServer }, { PageKey }, { PodRules }] = await Promise.all([
    import("../dashboard/dashboard-server.ts"),
    import("../dashboard/page-key.ts"),
    import("../dashboard/pod-rules.ts"),
  ]);
  const key = new PageKey();
  const server = new DashboardServer({
    agent,
    key,
    rules: new PodRules({ config, agent }),
    onfault: (fault) =>
      io.warn(
        fault === undefined
          ? "ambient-cni: the agent answers again\n"
          : `ambient-cni: ${fault.message}; trying again\n`,
      ),
  });
  io.print(`http://127.0.0.1:${await listen(server, port)}/${key.query}\n`);
  await untilIdle(server, { idleMs, signal: io.signal });
  await server.close();
  return 0;
}

async function listen(server: DashboardServer, port: number): Promise<number> {
  try {
    return await server.listen(port);
  } catch (error) {
    const why = (error as Error).message;
    throw new Error(`Cannot serve the dashboard on 127.0.0.1:${port}: ${why}; choose another --port`, {
      cause: error,
    });
  }
}

/** How often pages are counted. */
const countMs = 1_000;

/** Resolves when no page was open for so long (0: never), or nobody reads what the command prints. */
export async function untilIdle(
  pages: { readonly pageCount: number },
  options: { readonly idleMs: number; readonly signal: AbortSignal; readonly clock?: Clock },
): Promise<void> {
  const { idleMs, signal, clock = systemClock } = options;
  let seenMs = clock.nowMs();
  while (!signal.aborted && (idleMs === 0 || clock.nowMs() - seenMs < idleMs)) {
    await clock.sleep(countMs, signal).catch(() => {});
    if (pages.pageCount > 0) seenMs = clock.nowMs();
  }
}
