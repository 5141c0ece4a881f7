// SPDX-License-Identifier: Apache-2.0
// The processes around the pods during a churn: agents, ztunnels and the API server come, go and misbehave here.
import { setTimeout as delay } from "node:timers/promises";
import type { AgentProcess } from "../support/node/agent-process.ts";
import type { MeshNode } from "../support/node/mesh-node.ts";
import type { StandIn } from "../support/ztunnel/stand-in.ts";
import type { ApiFault, PeerOperation, ZtunnelChange } from "./operations.ts";
import { WorkChain } from "./work-chain.ts";

/** Changes of one kind of peer wait for each other; different peers misbehave at the same time. */
export class Peers {
  /** Every agent there was, for their logs. */
  readonly agents: AgentProcess[] = [];
  /** What no peer may do, such as ending by itself. */
  readonly faults: string[] = [];
  readonly #mesh: MeshNode;
  readonly #chains = { agent: new WorkChain(), ztunnel: new WorkChain(), api: new WorkChain() };
  readonly #dismissed = new WeakSet<object>();
  #ztunnel: StandIn | undefined;

  constructor(mesh: MeshNode) {
    this.#mesh = mesh;
  }

  /** Starts the first agent and the first ztunnel. */
  async start(): Promise<void> {
    await this.#startAgent();
    this.#ztunnel = await this.#startZtunnel();
  }

  /** The ztunnel that is there between two changes. */
  get ztunnel(): StandIn {
    if (this.#ztunnel === undefined) throw new Error("no ztunnel was started");
    return this.#ztunnel;
  }

  /** Begins a change; resolves when it is over. */
  change(operation: PeerOperation): Promise<void> {
    const chain = this.#chains[operation.kind];
    switch (operation.kind) {
      case "agent":
        return chain.run(() => this.#restartAgent(operation.signal, operation.awayMs));
      case "ztunnel":
        return chain.run(() => this.#changeZtunnel(operation.how, operation.ms));
      case "api":
        return chain.run(() => this.#breakApi(operation.how, operation.ms));
    }
  }

  async #startAgent(): Promise<void> {
    try {
      await this.#mesh.startAgent();
    } finally {
      // also one that never became ready: its log says why
      const agent = this.#mesh.agent;
      this.agents.push(agent);
      void agent.exited.then((code) => {
        if (!this.#dismissed.has(agent)) this.faults.push(`the agent ended by itself with code ${code}`);
      });
    }
  }

  async #restartAgent(signal: "SIGTERM" | "SIGKILL", awayMs: number): Promise<void> {
    const { agent } = this.#mesh;
    this.#dismissed.add(agent);
    if (signal === "SIGKILL") await agent.kill();
    else {
      const code = await agent.stop();
      if (code !== 0) this.faults.push(`the agent ended with code ${code} after SIGTERM`);
    }
    await delay(awayMs);
    await this.#startAgent();
  }

  async #startZtunnel(): Promise<StandIn> {
    // a runtime takes lo down before our plugin hears of the end: a pod that ends can be handed over at that moment
    const allow = ["lo-down"] as const;
    const ztunnel = await this.#mesh.startZtunnel({ maxBackoffMs: 100, retryMs: 500, allow });
    void ztunnel.exited.then(({ code, signal }) => {
      if (this.#dismissed.has(ztunnel)) return;
      const last = ztunnel.events
        .slice(-12)
        .map((event) => `  ${JSON.stringify({ ...event, hex: undefined })}`);
      this.faults.push(`ztunnel ended by itself (${signal ?? `code ${code}`}):\n${last.join("\n")}`);
    });
    return ztunnel;
  }

  async #changeZtunnel(how: ZtunnelChange, ms: number): Promise<void> {
    const old = this.ztunnel;
    switch (how) {
      case "reconnect":
        await old.command({ do: "reconnect" });
        return;
      case "kill":
      case "terminate":
        await this.#dismiss(old, how);
        await delay(ms);
        this.#ztunnel = await this.#startZtunnel();
        return;
      case "overlap-new-stays":
        this.#ztunnel = await this.#startZtunnel();
        await delay(ms);
        await this.#dismiss(old, "terminate");
        return;
      case "overlap-old-stays": {
        const other = await this.#startZtunnel();
        await delay(ms);
        await this.#dismiss(other, "kill");
      }
    }
  }

  async #dismiss(ztunnel: StandIn, how: "kill" | "terminate"): Promise<void> {
    this.#dismissed.add(ztunnel);
    if (how === "kill") await ztunnel.kill();
    else await ztunnel.stop();
  }

  async #breakApi(how: ApiFault, ms: number): Promise<void> {
    const { api } = this.#mesh;
    const { faults } = api;
    switch (how) {
      case "refuse":
        await api.refuse();
        await delay(ms);
        await api.listenAgain();
        return;
      case "hang":
        // silent for a while, then the connections break: what was lost meanwhile must be asked for again
        faults.hang = true;
        await delay(ms);
        await api.refuse();
        faults.hang = false;
        await api.listenAgain();
        return;
      case "drop-watches":
        api.dropWatches();
        return;
      case "end-watches":
        api.endWatches();
        return;
      case "gone-event":
      case "gone-status":
        faults.goneAs = how === "gone-event" ? "event" : "status";
        faults.goneOnWatch = 2;
        api.dropWatches();
        return;
      case "compact":
        await api.refuse();
        await delay(ms);
        api.store.compact();
        await api.listenAgain();
        return;
      case "duplicate":
        faults.duplicateEvents = true;
        await delay(ms);
        faults.duplicateEvents = false;
        return;
      case "swap":
        faults.swapEvents = true;
        await delay(ms);
        faults.swapEvents = false;
        return;
      case "garble":
        faults.garbleEvents = 1;
        return;
      case "cut-list":
        faults.cutLists = 1;
        api.store.compact();
        api.dropWatches();
        return;
      case "slow-list":
        faults.slowListMs = ms;
        api.store.compact();
        api.dropWatches();
        await delay(ms);
        faults.slowListMs = 0;
        return;
      case "patch-500":
        faults.failures.push({ status: 500, verb: "patch", resource: "pods", times: 3 });
        return;
      case "patch-409":
        faults.failures.push({ status: 409, verb: "patch", resource: "pods", reason: "Conflict", times: 3 });
        return;
      case "get-503":
        faults.failures.push({ status: 503, verb: "get", times: 2 });
    }
  }
}
