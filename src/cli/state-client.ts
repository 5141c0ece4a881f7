// SPDX-License-Identifier: Apache-2.0
// Asks the agent of this node through its Unix socket, with a deadline.
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type { NodeReport } from "../status/node-state-report.ts";
import type { StateReader } from "../status/state-reader.ts";
import {
  type PodDetailReport,
  type PodListReport,
  STATE_PATHS,
  STATE_SOCKET_NAME,
  type StateErrorReport,
} from "../status/state-report.ts";

/** No agent answers; the message names the socket, the cause and the remedy. */
export class AgentAwayError extends Error {
  override readonly name = "AgentAwayError";
}

const DEFAULT_TIMEOUT_MS = 5_000;

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT:
    "there is no such socket: no agent runs with this run dir; look at its DaemonSet pod on this node " +
    "(kubectl get pods -A -o wide -l k8s-app=ambient-cni-node or istio-cni-node), and check CNI_AGENT_RUN_DIR",
  ECONNREFUSED:
    "nobody listens on the socket: the agent has ended; look at its DaemonSet pod on this node, and its log",
  EACCES: "permission denied: run this as root",
  EPERM: "not permitted: run this as root",
};

interface Answer<T> {
  readonly status: number;
  readonly report: T & Partial<StateErrorReport>;
}

/** A client of the agent whose run dir this is. Each call opens a connection of its own, and throws an AgentAwayError. */
export function stateClient(runDir: string, options: { timeoutMs?: number } = {}): StateReader {
  const socketPath = join(runDir, STATE_SOCKET_NAME);
  const { timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  const ask = async <T>(path: string): Promise<Answer<T>> => {
    const { status, body } = await exchange(socketPath, { path, timeoutMs });
    return { status, report: parse(body, socketPath) };
  };
  return {
    pods: async () => accepted(await ask<PodListReport>(STATE_PATHS.pods)),
    node: async () => accepted(await ask<NodeReport>(STATE_PATHS.node)),
    pod: async (ns, name) => {
      const path = `${STATE_PATHS.pods}/${encodeURIComponent(ns)}/${encodeURIComponent(name)}`;
      const answer = await ask<PodDetailReport>(path);
      return answer.status === 404 ? undefined : accepted(answer);
    },
  };
}

function accepted<T>({ status, report }: Answer<T>): T {
  if (status === 200) return report;
  throw new Error(`The agent refused: ${report.error ?? `status ${status}`}`);
}

async function exchange(
  socketPath: string,
  { path, timeoutMs }: { path: string; timeoutMs: number },
): Promise<{ status: number; body: string }> {
  const signal = AbortSignal.timeout(timeoutMs);
  const asked = request({ socketPath, path, agent: false, signal });
  // without a listener one that comes after the head would end the process; whoever reads hears of it
  asked.on("error", () => {});
  asked.end();
  try {
    const [response] = (await once(asked, "response")) as [IncomingMessage];
    return { status: response.statusCode ?? 0, body: await text(response) };
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    const late = `no answer within ${timeoutMs} ms: the agent hangs or is overloaded; look at its log and its CPU limit`;
    throw away(socketPath, signal.aborted ? late : (REMEDIES[code] ?? message));
  }
}

function parse<T>(body: string, socketPath: string): T {
  try {
    return JSON.parse(body) as T;
  } catch {
    throw away(
      socketPath,
      "the answer is not JSON: something else listens there, or an agent of another version",
    );
  }
}

function away(socketPath: string, why: string): AgentAwayError {
  return new AgentAwayError(`Cannot ask the agent at "${socketPath}": ${why}`);
}
