// SPDX-License-Identifier: Apache-2.0
// Calls functions of a module that runs in another process, over that process's control channel (module-host.ts serves them).
import type { ChildProcess } from "node:child_process";

/** A call on its way to the module. */
export interface CallMessage {
  readonly id: number;
  readonly name: string;
  readonly args: unknown[];
}

/** The answer to the call of the same id: `error` is set when the function threw. */
export interface ReplyMessage {
  readonly id: number;
  value?: unknown;
  error?: Error;
}

/** The functions of a module as they look from outside: arguments and results are copied (structured clone). */
export type Remote<M> = {
  readonly [K in keyof M as M[K] extends (...args: never[]) => unknown ? K : never]: M[K] extends (
    ...args: infer A
  ) => infer R
    ? (...args: A) => Promise<Awaited<R>>
    : never;
};

/** A module in a child process that was forked with `serialization: "advanced"`. */
export class RemoteModule<M> {
  readonly call: Remote<M>;
  /** Resolves when the module has been loaded; rejects when the process ended before. */
  readonly ready: Promise<void>;
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, PromiseWithResolvers<unknown>>();
  #lastId = 0;

  constructor(child: ChildProcess) {
    this.#child = child;
    const ready = Promise.withResolvers<void>();
    this.ready = ready.promise;
    ready.promise.catch(() => {});
    this.call = new Proxy({} as Remote<M>, {
      get: (_, name) =>
        name === "then" ? undefined : (...args: unknown[]) => this.#send(String(name), args),
    });
    child.on("message", (message: unknown) => {
      if (typeof message === "object" && message !== null) this.#settle(message as ReplyMessage);
      else ready.resolve();
    });
    child.once("exit", (code, signal) => {
      const error = new Error(`The process of the module has ended (${signal ?? `exit code ${code}`})`);
      ready.reject(error);
      for (const reply of this.#pending.values()) reply.reject(error);
      this.#pending.clear();
    });
  }

  #send(name: string, args: unknown[]): Promise<unknown> {
    const id = ++this.#lastId;
    const reply = Promise.withResolvers<unknown>();
    this.#pending.set(id, reply);
    this.#child.send({ id, name, args } satisfies CallMessage, (error) => {
      if (error !== null) this.#settle({ id, error });
    });
    return reply.promise;
  }

  #settle(message: ReplyMessage): void {
    const reply = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.error === undefined) reply?.resolve(message.value);
    else reply?.reject(message.error);
  }
}
