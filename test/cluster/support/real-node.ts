// SPDX-License-Identifier: Apache-2.0
// A node for one test file in which a kubelet can run, and what that file prints past vitest.
import { leftovers, tracesOf } from "../../support/node/leftovers.ts";
import { NodeModule } from "../../support/node/node-module.ts";
import { cleanEnv } from "../../support/node/run.ts";
import { type KubeletCgroups, makeKubeletCgroups } from "./node-cgroups.ts";

/** Programs of the system that such a node needs. */
export const nodeTools = ["containerd", "runc", "ctr", "nft", "busybox"];

/** Version of the chain that such a node's runtime has, where who runs the tests asks for another one than the default. */
export const chainVersionVariable = "CNI_VERSION";

/** A module loaded inside a node where a kubelet can run. */
export class RealNode<M> {
  readonly module: NodeModule<M>;
  readonly #cgroups: KubeletCgroups;

  private constructor(module: NodeModule<M>, cgroups: KubeletCgroups) {
    this.module = module;
    this.#cgroups = cgroups;
  }

  /** @param path absolute path of the module */
  static async start<M>(path: string): Promise<RealNode<M>> {
    const version = process.env[chainVersionVariable];
    const env = cleanEnv(version === undefined ? {} : { [chainVersionVariable]: version });
    const module = await NodeModule.start<M>(path, { env });
    try {
      return new RealNode(module, await makeKubeletCgroups(module.handle.cgroupFolder));
    } catch (error) {
      await module.stop();
      throw error;
    }
  }

  /** Ends the node. @returns what is left of it on the machine, see `leftovers` */
  async stop(): Promise<string[]> {
    const traces = await tracesOf(this.module.handle);
    await this.module.stop();
    await this.#cgroups.remove();
    return leftovers(traces);
  }
}

/** Writes to stderr, past vitest's own output. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Says how long things took. */
export function sayTimes(what: string, times: Readonly<Record<string, number>>): void {
  const parts = Object.entries(times).map(([name, ms]) => `${name} ${ms} ms`);
  say(`${what}: ${parts.join(", ")}`);
}
