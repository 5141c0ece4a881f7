// SPDX-License-Identifier: Apache-2.0
// A module in a process of its own in the node's host network: what an attacker does there must not slow the one who measures.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { type Remote, RemoteModule } from "../support/node/remote-module.ts";
import { cleanEnv } from "../support/node/run.ts";

/** The module's functions, and its end. */
export class HelperProcess<M> implements AsyncDisposable {
  readonly call: Remote<M>;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, call: Remote<M>) {
    this.#child = child;
    this.call = call;
  }

  /** @param path absolute, of the module */
  static async start<M>(path: string): Promise<HelperProcess<M>> {
    const child = fork(join(import.meta.dirname, "../support/node/module-host.ts"), [path], {
      execPath: process.execPath,
      execArgv: [],
      env: cleanEnv(),
      serialization: "advanced",
    });
    const remote = new RemoteModule<M>(child);
    await remote.ready;
    return new HelperProcess<M>(child, remote.call);
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await gone;
  }
}
