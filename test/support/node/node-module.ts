// SPDX-License-Identifier: Apache-2.0
// Lets a vitest file work inside a test node: functions exported by a module beside it are called from the test outside.
import { join } from "node:path";
import { type NodeHandle, type StartNodeOptions, startNode } from "./namespaces.ts";
import { type Remote, RemoteModule } from "./remote-module.ts";

/**
 * A module that was loaded as the first program of a node of its own.
 *
 * `await using inside = await NodeModule.start<typeof import("./pods.inside.ts")>(path)`, then `inside.call.addPod("a")`.
 */
export class NodeModule<M> implements AsyncDisposable {
  /** The module's functions. */
  readonly call: Remote<M>;
  readonly #node: NodeHandle;

  private constructor(node: NodeHandle, call: Remote<M>) {
    this.#node = node;
    this.call = call;
  }

  /**
   * Makes a node and loads the module in it.
   *
   * @param path absolute path of the module; by convention `NAME.inside.ts`.
   * @param options.env the module's environment, see {@link StartNodeOptions}.
   * @throws NodeUnavailableError when this machine cannot make a node, or the module cannot be loaded.
   */
  static async start<M>(path: string, options: Pick<StartNodeOptions, "env"> = {}): Promise<NodeModule<M>> {
    const node = await startNode(join(import.meta.dirname, "module-host.ts"), { ...options, args: [path] });
    const remote = new RemoteModule<M>(node.child);
    await node.started;
    return new NodeModule<M>(node, remote.call);
  }

  /** The node as seen from outside. */
  get handle(): NodeHandle {
    return this.#node;
  }

  /** Ends the node and waits until nothing of it is left. */
  async stop(): Promise<void> {
    this.#node.kill();
    await this.#node.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
