// SPDX-License-Identifier: Apache-2.0
// CRI-O's side of NRI with its rules: one call at a time, an answer within 2 s, and a list of those sandboxes alone that are made.
// Source: what CRI-O 1.37.0 said to this agent; server/nri-api.go, internal/nri/nri.go, containerd/nri 0.12.0 pkg/adaptation.
import type { RuntimeSandbox } from "../../src/nri/messages.ts";
import { type PluginLink, ScriptedRuntime } from "./scripted-runtime.ts";
import { crioGreeting, crioRequest, crioSynchronization } from "./words.ts";

const requestMs = 2_000;

/** CRI-O as a plugin sees it. */
export class CrioRuntime {
  readonly #runtime: ScriptedRuntime;
  /** Made and not removed yet, by id. */
  readonly #made = new Map<string, RuntimeSandbox>();
  #plugin: PluginLink | undefined;
  #registered = Promise.withResolvers<void>();
  #calls: Promise<void> = Promise.resolve();

  private constructor(runtime: ScriptedRuntime) {
    this.#runtime = runtime;
  }

  /** @param path of its socket */
  static async start(path: string): Promise<CrioRuntime> {
    const crio = new CrioRuntime(await ScriptedRuntime.start(path));
    void crio.#welcomeAll();
    return crio;
  }

  /** Resolves as soon as the next plugin has been told of all sandboxes: what is asked then comes before anything it does of itself. */
  nextRegistration(): Promise<void> {
    return this.#registered.promise;
  }

  /** A sandbox has its networks. @throws Error with the plugin's refusal */
  async runPodSandbox(sandbox: RuntimeSandbox): Promise<void> {
    await this.#call("RunPodSandbox", sandbox);
    this.#made.set(sandbox.id, sandbox);
  }

  /** A sandbox is made whose RunPodSandbox came too early for the plugin, and whose place in the list too late. */
  makeUnseen(sandbox: RuntimeSandbox): void {
    this.#made.set(sandbox.id, sandbox);
  }

  /** A container of it is about to be made. @throws Error with the plugin's refusal */
  async createContainer(sandbox: RuntimeSandbox): Promise<void> {
    await this.#call("CreateContainer", sandbox);
  }

  /** Its namespace is gone by now, its path is not; it is listed until it is removed, without an address. */
  async stopPodSandbox(sandbox: RuntimeSandbox): Promise<void> {
    this.#made.set(sandbox.id, { ...sandbox, ips: [] });
    await this.#call("StopPodSandbox", sandbox);
  }

  async removePodSandbox(sandbox: RuntimeSandbox): Promise<void> {
    this.#made.delete(sandbox.id);
    await this.#call("RemovePodSandbox", sandbox);
  }

  async #welcomeAll(): Promise<void> {
    for (let nth = 0; ; nth += 1) {
      const link = await this.#runtime.plugin(nth);
      await this.#exclusive(async () => {
        await link.greet(crioGreeting, crioSynchronization([...this.#made.values()]));
        this.#plugin = link;
        link.socket.once("close", () => {
          if (this.#plugin === link) this.#plugin = undefined;
        });
        this.#registered.resolve();
        this.#registered = Promise.withResolvers();
      });
    }
  }

  async #call(method: string, sandbox: RuntimeSandbox): Promise<void> {
    await this.#exclusive(async () => {
      // who is not there is not asked
      const answer = await this.#plugin?.call(method, crioRequest(sandbox));
      if (answer?.ok === false) throw new Error(answer.message);
    });
  }

  /** @throws Error where the real one would have cut the plugin off */
  async #exclusive(work: () => Promise<void>): Promise<void> {
    const done = this.#calls.then(async () => {
      const startMs = performance.now();
      await work();
      if (performance.now() - startMs > requestMs) throw new Error("the plugin took longer than it may");
    });
    this.#calls = done.catch(() => {});
    await done;
  }
}
