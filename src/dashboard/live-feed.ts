// SPDX-License-Identifier: Apache-2.0
// Tells the pages that are open what has changed, as server-sent events; while none is open the agent is asked nothing at all.
import type { ServerResponse } from "node:http";
import { systemClock, type Timer } from "../loop/clock.ts";
import type { NodeReport } from "../status/node-state-report.ts";
import type { StateReader } from "../status/state-reader.ts";
import type { PodReport } from "../status/state-report.ts";
import type { ChangeEvent, WholeEvent } from "./feed-events.ts";

export interface LiveFeedOptions {
  readonly agent: Pick<StateReader, "pods" | "node">;
  /** Nobody answers, or, `undefined`, somebody does again. */
  readonly onfault: (fault: Error | undefined) => void;
}

/** Between two questions to the agent. */
const intervalMs = 300;
/** The node's report is sent at least this often; a page that hears nothing knows it is cut off. */
const nodeIntervalMs = 2_000;
/** Pages at a time. */
const maxClients = 8;

interface Client {
  readonly response: ServerResponse;
  /** It has missed events: the next one is whole. */
  isBehind: boolean;
}

/** One loop for all pages: each look is made, compared and written out once. */
export class LiveFeed {
  readonly #options: LiveFeedOptions;
  readonly #clients = new Set<Client>();
  #known = new Map<string, string>();
  #nodeText = "";
  #nodeSentMs = Number.NEGATIVE_INFINITY;
  #timer: Timer | undefined;
  #isAway = false;

  constructor(options: LiveFeedOptions) {
    this.#options = options;
  }

  /** Whether one more page can be served. */
  get hasRoom(): boolean {
    return this.#clients.size < maxClients;
  }

  /** Pages that listen. */
  get size(): number {
    return this.#clients.size;
  }

  /** Takes over a response whose head has been written; it is fed until the client goes. */
  add(response: ServerResponse): void {
    const client: Client = { response, isBehind: true };
    this.#clients.add(client);
    response.once("close", () => {
      this.#clients.delete(client);
      if (this.#clients.size > 0) return;
      this.#timer?.cancel();
      this.#timer = undefined;
      this.#known.clear();
      this.#nodeText = "";
    });
    this.#timer?.cancel();
    this.#timer = systemClock.after(0, () => void this.#tick());
  }

  /** Ends all streams. */
  close(): void {
    this.#timer?.cancel();
    for (const { response } of this.#clients) response.destroy();
  }

  async #tick(): Promise<void> {
    const { onfault } = this.#options;
    this.#timer = undefined;
    try {
      await this.#tell();
      if (this.#isAway) onfault(undefined);
      this.#isAway = false;
    } catch (error) {
      // a page that is cut off says so, and comes back by itself
      for (const { response } of this.#clients) response.end();
      this.#clients.clear();
      if (!this.#isAway) onfault(error as Error);
      this.#isAway = true;
    }
    if (this.#clients.size > 0 && this.#timer === undefined)
      this.#timer = systemClock.after(intervalMs, () => void this.#tick());
  }

  async #tell(): Promise<void> {
    const { agent } = this.#options;
    const [node, { pods }] = await Promise.all([agent.node(), agent.pods()]);
    const change = this.#compare(node, pods);
    const isQuiet = change.node === undefined && change.pods.length === 0 && change.gone.length === 0;
    let whole: string | undefined;
    let part: string | undefined;
    for (const client of this.#clients) {
      const { response } = client;
      if (response.writableNeedDrain) client.isBehind = true;
      else if (client.isBehind) {
        whole ??= frame("whole", { node, pods } satisfies WholeEvent);
        client.isBehind = false;
        response.write(whole);
      } else if (!isQuiet) {
        part ??= frame("change", change);
        response.write(part);
      }
    }
  }

  #compare(node: NodeReport, pods: readonly PodReport[]): ChangeEvent {
    const known = new Map<string, string>();
    const changed = pods.filter((pod) => {
      const text = JSON.stringify(steadyPod(pod));
      known.set(pod.uid, text);
      return this.#known.get(pod.uid) !== text;
    });
    const gone = [...this.#known.keys()].filter((uid) => !known.has(uid));
    this.#known = known;
    const nodeText = JSON.stringify(steadyNode(node));
    const isDue = systemClock.nowMs() - this.#nodeSentMs >= nodeIntervalMs;
    if (nodeText === this.#nodeText && !isDue) return { pods: changed, gone };
    this.#nodeText = nodeText;
    this.#nodeSentMs = systemClock.nowMs();
    return { node, pods: changed, gone };
  }
}

/** Without the time of the look, which is that of the question for a pod that no run has looked at. */
function steadyPod(pod: PodReport): unknown {
  return pod.observed === null ? pod : { ...pod, observed: { ...pod.observed, at: "" } };
}

/** Without what is different each time. */
function steadyNode({
  at: _at,
  uptimeSeconds: _uptime,
  process: _process,
  watches,
  ...node
}: NodeReport): unknown {
  return {
    ...node,
    watches: watches.map(({ name, synced, fresh, objects }) => [name, synced, fresh, objects]),
  };
}

function frame(event: string, data: unknown): string {
  return `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}
