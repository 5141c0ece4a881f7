// SPDX-License-Identifier: Apache-2.0
// Answers the launcher while the node is left, and tells when nobody calls it any more.
import { lstatSync, rmSync } from "node:fs";
import { type IncomingMessage, request, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { buffer } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { pluginLimits } from "../cni/plugin-server.ts";
import { publishSocket } from "../linux/unix-socket.ts";
import { silentLogger } from "../log/logger.ts";
import { LimitedServer, type PortLimits } from "../ports/limited-server.ts";

const connectTimeoutMs = 1_000;

/** Whether some process accepts connections on a Unix stream socket. */
export function isServed(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({ path });
  // somebody who is too busy to accept is there, too
  socket.setTimeout(connectTimeoutMs, () => resolve(true));
  socket.once("connect", () => resolve(true));
  socket.once("error", ({ code }: NodeJS.ErrnoException) => resolve(code === "EAGAIN"));
  return promise.finally(() => socket.destroy());
}

/** Whose agent has the plugin socket. */
export type SocketOwner = "nobody" | "ours" | "istio-cni";

/**
 * istio-cni's agent knows no `/cni`; whoever else is there counts as one of ours, an uninstall included.
 * Source: istio/istio cni/pkg/nodeagent/cni-watcher.go, startCniPluginServer.
 */
export async function whoServes(path: string): Promise<SocketOwner> {
  if (!(await isServed(path))) return "nobody";
  const { promise, resolve } = Promise.withResolvers<SocketOwner>();
  const headers = { "CNI-Command": "VERSION", "Content-Length": 0 };
  const sent = request({
    socketPath: path,
    path: "/cni",
    method: "POST",
    headers,
    timeout: connectTimeoutMs,
  });
  sent.once("response", ({ statusCode }) => resolve(statusCode === 404 ? "istio-cni" : "ours"));
  sent.once("timeout", () => resolve("ours"));
  // it ended just now, or speaks something else
  sent.once("error", () => resolve("ours"));
  sent.end();
  return await promise.finally(() => sent.destroy());
}

const leaving =
  "ambient-cni is leaving this node; the runtime tries again, with the chain as it is without ambient-cni";

/** Nothing is waited for here. */
const limits: PortLimits = { ...pluginLimits, answerMs: 10_000 };
/** A node whose STATUS fails starts no pod at all, those outside the mesh included. */
const forgiving: ReadonlySet<string> = new Set(["DEL", "GC", "STATUS"]);

/**
 * Stands in for the agent on its plugin socket: DEL, GC and STATUS succeed, everything else fails at once instead of waiting for an
 * agent that does not come back, or cannot work. Pods on the exempt list start nevertheless: for them any other answer is no answer.
 */
export class UninstallCalls implements AsyncDisposable {
  readonly #path: string;
  readonly #refusal: string;
  readonly #server: LimitedServer;
  #inode: bigint | undefined;
  #underWay = 0;
  #lastCallMs = performance.now();
  #count = 0;

  /** @param refusal why other calls fail; default: the node is left */
  constructor(path: string, refusal = leaving) {
    this.#path = path;
    this.#refusal = refusal;
    this.#server = new LimitedServer({
      what: "the plugin socket",
      handler: (request, response) => void this.#answer(request, response),
      limits,
      descriptors: "all",
      log: silentLogger,
    });
  }

  /** Calls of the launcher so far. */
  get count(): number {
    return this.#count;
  }

  /** Takes the socket's place. @throws Error of the file system, ENOENT without a folder */
  async listen(): Promise<void> {
    this.#inode = (await publishSocket(this.#server.door(), this.#path)).inode;
  }

  /** Waits until there was no call for so long. @returns false when calls still came at the deadline */
  async quiet(quietMs: number, options: { deadlineMs: number }): Promise<boolean> {
    const until = performance.now() + options.deadlineMs;
    this.#lastCallMs = performance.now();
    for (;;) {
      const leftMs = this.#underWay > 0 ? 20 : this.#lastCallMs + quietMs - performance.now();
      if (leftMs <= 0) return true;
      const wakeMs = performance.now() + leftMs;
      if (wakeMs > until) return false;
      await delay(leftMs);
      // this process did not get to run: calls may be waiting that it has not seen
      if (performance.now() - wakeMs > quietMs / 2) this.#lastCallMs = performance.now();
    }
  }

  /** Lets go of the socket, and removes its file unless an agent has put its own there. */
  async close(): Promise<void> {
    await this.#server.close();
    const found = lstatSync(this.#path, { bigint: true, throwIfNoEntry: false });
    if (this.#inode !== undefined && found?.ino === this.#inode) rmSync(this.#path, { force: true });
    this.#inode = undefined;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#underWay++;
    this.#count++;
    try {
      // to its end: the launcher writes all of it before it reads
      await buffer(request);
      const isForgiving = forgiving.has(String(request.headers["cni-command"]));
      response.writeHead(isForgiving ? 200 : 503, {
        ...(isForgiving ? { "CNI-Exit": "0" } : {}),
        Connection: "close",
      });
      response.end(isForgiving ? "" : this.#refusal);
    } catch {
      // the launcher was killed in the middle: the runtime calls again
      response.destroy();
    } finally {
      this.#underWay--;
      this.#lastCallMs = performance.now();
    }
  }
}
