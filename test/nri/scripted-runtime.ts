// SPDX-License-Identifier: Apache-2.0
// A container runtime's NRI socket, whose every word a test decides.
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { services } from "../../src/nri/messages.ts";
import { muxPiece, muxReader, pluginConnection, runtimeConnection } from "../../src/nri/mux.ts";
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  type TtrpcRequest,
  type TtrpcResponse,
  ttrpcReader,
} from "../../src/nri/ttrpc.ts";
import { greeting, synchronization } from "./words.ts";

/** One plugin that has connected. */
export class PluginLink {
  readonly socket: Socket;
  /** What the plugin asked of the runtime. */
  readonly asked: TtrpcRequest[] = [];
  readonly #answers = new Map<number, PromiseWithResolvers<TtrpcResponse>>();
  readonly #registered = Promise.withResolvers<void>();
  #lastStream = -1;

  constructor(socket: Socket) {
    this.socket = socket;
    const [trunk, fromPlugin, toRuntime] = [muxReader(), ttrpcReader(), ttrpcReader()];
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      for (const { head, body } of trunk.push(bytes)) {
        if (head.connection === pluginConnection)
          for (const { head: inner, body: text } of fromPlugin.push(body))
            this.#answers.get(inner.stream)?.resolve(decodeResponse(text));
        else for (const { head: inner, body: text } of toRuntime.push(body)) this.#take(inner.stream, text);
      }
    });
  }

  #take(stream: number, body: Uint8Array): void {
    this.asked.push(decodeRequest(body));
    this.write(muxPiece(runtimeConnection, encodeResponse(stream, { ok: true, payload: new Uint8Array() })));
    this.#registered.resolve();
  }

  write(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  /** Makes a call; the plugin's answer. */
  async call(method: string, payload: Uint8Array, service: string = services.plugin): Promise<TtrpcResponse> {
    this.#lastStream += 2;
    const answer = Promise.withResolvers<TtrpcResponse>();
    this.#answers.set(this.#lastStream, answer);
    const bytes = encodeRequest(this.#lastStream, { service, method, payload, timeoutMs: 2000 });
    this.write(muxPiece(pluginConnection, bytes));
    return await answer.promise;
  }

  /** As a runtime greets: registration, Configure, Synchronize. */
  async greet(hello: Uint8Array = greeting(), all: Uint8Array = synchronization([])): Promise<void> {
    await this.#registered.promise;
    await this.call("Configure", hello);
    await this.call("Synchronize", all);
  }
}

/** A socket that plugins connect to. */
export class ScriptedRuntime implements AsyncDisposable {
  readonly path: string;
  readonly #server: Server;
  readonly #links: PluginLink[] = [];

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
  }

  static async start(path: string): Promise<ScriptedRuntime> {
    rmSync(path, { force: true });
    const server = createServer();
    const runtime = new ScriptedRuntime(path, server);
    server.on("connection", (socket) => {
      runtime.#links.push(new PluginLink(socket));
      server.emit("plugin");
    });
    server.listen(path);
    await once(server, "listening");
    return runtime;
  }

  /** The nth plugin that connects, from 0. */
  async plugin(nth = 0): Promise<PluginLink> {
    while (this.#links[nth] === undefined) await once(this.#server, "plugin");
    return this.#links[nth];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { socket } of this.#links) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}
