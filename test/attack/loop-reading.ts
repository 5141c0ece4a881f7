// SPDX-License-Identifier: Apache-2.0
// Reads how long event loops stood still: the agent's, and that of an idle process beside it, which is the machine's own floor.

import { connect } from "node:net";
import { text } from "node:stream/consumers";
import type { LoopReport } from "../support/node/loop-probe.ts";
import { ManagedProcess } from "../support/node/managed-process.ts";
import { cleanEnv } from "../support/node/run.ts";
import { waitFor } from "../support/node/wait-for.ts";

const probe = new URL("../support/node/loop-probe.ts", import.meta.url).href;
const agentPath = "/run/node/agent-loop.sock";
const twinPath = "/run/node/twin-loop.sock";

/** Environment of an agent whose loop can be read. */
export const loopProbeEnv = { NODE_OPTIONS: `--import ${probe}`, LOOP_PROBE: agentPath } as const;

/** Of the agent, since it was read last. */
export async function readAgentLoop(): Promise<LoopReport> {
  return await read(agentPath);
}

async function read(path: string): Promise<LoopReport> {
  return JSON.parse(await text(connect(path))) as LoopReport;
}

/** A process that has nothing to do. */
export class IdleTwin {
  readonly #process: ManagedProcess;

  private constructor(twin: ManagedProcess) {
    this.#process = twin;
  }

  static async start(): Promise<IdleTwin> {
    const argv = [process.execPath, "--import", probe, "--eval", "setInterval(() => {}, 2 ** 30)"];
    const twin = new ManagedProcess(argv, { name: "idle twin", env: cleanEnv({ LOOP_PROBE: twinPath }) });
    await waitFor("the idle twin", async () => (await read(twinPath)).rssMb > 0, { timeoutMs: 10_000 });
    return new IdleTwin(twin);
  }

  /** Since it was read last. */
  async read(): Promise<LoopReport> {
    if (!this.#process.running) throw new Error(`the idle twin has ended: ${this.#process.text}`);
    return await read(twinPath);
  }
}
