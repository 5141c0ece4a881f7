// SPDX-License-Identifier: Apache-2.0
// One connection to the runtime's NRI socket: we register, it asks who we are, tells of all sandboxes, and then of each that begins and ends.
import { createConnection, type Socket } from "node:net";
import { bounds } from "../bounds/bounds.ts";
import type { Logger } from "../log/logger.ts";
import type { Clock } from "../loop/clock.ts";
import { within } from "../loop/deadline.ts";
import {
  decodeGreeting,
  decodeSandboxRequest,
  decodeStateChange,
  decodeSynchronization,
  encodeRegistration,
  encodeSubscription,
  encodeSynchronized,
  type RuntimeGreeting,
  type RuntimeSandbox,
  type SandboxEvent,
  services,
} from "./messages.ts";
import { muxPiece, muxReader, pluginConnection, runtimeConnection } from "./mux.ts";
import {
  decodeRequest,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  statusCodes,
  type TtrpcRequest,
  type TtrpcResponse,
  ttrpcReader,
} from "./ttrpc.ts";

/** Who hears what the runtime tells. */
export interface SandboxListener {
  /** All sandboxes that there are. */
  synchronized(sandboxes: readonly RuntimeSandbox[]): void;
  /**
   * A sandbox has its networks, and no container yet. The runtime holds all pods up meanwhile, and cuts us off after a while.
   * @throws Error whose message people are to read: the sandbox is refused
   */
  begins(sandbox: RuntimeSandbox, call: SandboxCall): Promise<void>;
  /** A container of a sandbox is about to be made; absent: that is not to be told. @throws Error as `begins`: the container is refused */
  creates?(sandbox: RuntimeSandbox, call: SandboxCall): Promise<void>;
  /** The containers of a sandbox have ended, and it is taken down. */
  stopped(sandbox: RuntimeSandbox): void;
  /** A sandbox is gone. */
  removed(sandbox: RuntimeSandbox): void;
}

/** What a runtime grants to the answer about a sandbox that begins. */
export interface SandboxCall {
  /** After that it cuts us off, and lets the sandbox run; 0: it does not say. */
  readonly timeoutMs: number;
}

export interface SessionOptions {
  /** The runtime's socket. */
  readonly path: string;
  readonly plugin: { readonly name: string; readonly index: string };
  readonly listener: SandboxListener;
  /** The runtime has told of all sandboxes, and asks us from now on. */
  readonly onready: (runtime: RuntimeGreeting) => void;
  readonly log: Logger;
  readonly clock: Clock;
}

const connectMs = 2_000;
/** The runtime greets one plugin after the other, each with a deadline of 5 s, and none while pods are being made. */
const greetingMs = 60_000;
/** More than a few answers wait only where nobody reads them. */
const maxUnsentBytes = 1 << 20;
const registerStream = 1;
const nothing = { ok: true, payload: new Uint8Array() } as const;

/** A session, from the connection to its end. */
export class NriSession {
  readonly #options: SessionOptions;
  readonly #end = Promise.withResolvers<never>();
  readonly #ended = new AbortController();
  readonly #registered = Promise.withResolvers<void>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #trunk = muxReader();
  readonly #requests = ttrpcReader();
  readonly #responses = ttrpcReader();
  #socket: Socket | undefined;
  #runtime: RuntimeGreeting | undefined;
  /** Parts of a Synchronize that go on in the next. */
  #sandboxes: RuntimeSandbox[] = [];
  #calls = 0;

  constructor(options: SessionOptions) {
    this.#options = options;
    // where nobody waits yet, or any more
    for (const { promise } of [this.#end, this.#registered, this.#ready]) promise.catch(() => {});
  }

  /** Serves the runtime until the connection ends, whoever ends it. @throws always: why it ended */
  async run(signal: AbortSignal): Promise<never> {
    const { path } = this.#options;
    const onabort = (): void => this.#fail(signal.reason);
    signal.addEventListener("abort", onabort);
    try {
      signal.throwIfAborted();
      const socket = createConnection({ path });
      this.#socket = socket;
      const connected = Promise.withResolvers<void>();
      socket.on("connect", () => connected.resolve());
      socket.on("data", (bytes) => this.#take(bytes));
      socket.on("error", (error) => this.#fail(error));
      socket.on("close", () => this.#fail(new Error(`the runtime closed the connection${this.#midway()}`)));
      await this.#inTime(connected.promise, {
        ms: connectMs,
        message: `it took no connection within ${connectMs} ms`,
      });
      const greeted = { ms: greetingMs, message: `it did not greet us within ${greetingMs / 1000} s` };
      this.#register();
      await this.#inTime(this.#registered.promise, greeted);
      await this.#inTime(this.#ready.promise, greeted);
      return await this.#end.promise;
    } finally {
      signal.removeEventListener("abort", onabort);
      this.#fail(new Error("the session ended"));
      this.#socket?.destroy();
    }
  }

  get #events(): SandboxEvent[] {
    const isAsked = this.#options.listener.creates !== undefined;
    return ["run", "stop", "remove", ...(isAsked ? (["create"] as const) : [])];
  }

  /** Unless the session ends before. */
  async #inTime(
    promise: Promise<void>,
    deadline: { readonly ms: number; readonly message: string },
  ): Promise<void> {
    await within(Promise.race([promise, this.#end.promise]), { ...deadline, clock: this.#options.clock });
  }

  #fail(error: unknown): void {
    this.#end.reject(error);
    if (!this.#ended.signal.aborted) this.#ended.abort(error);
  }

  #midway(): string {
    const isMidway = [this.#trunk, this.#requests, this.#responses].some(
      ({ pendingBytes }) => pendingBytes > 0,
    );
    return isMidway ? " in the middle of a message" : "";
  }

  #register(): void {
    const { plugin } = this.#options;
    const payload = encodeRegistration(plugin);
    const call = { service: services.runtime, method: "RegisterPlugin", payload, timeoutMs: greetingMs };
    this.#send(runtimeConnection, encodeRequest(registerStream, call));
  }

  #take(bytes: Buffer): void {
    if (this.#ended.signal.aborted) return;
    try {
      for (const { head, body } of this.#trunk.push(bytes)) {
        if (head.connection === pluginConnection) this.#takeRequests(body);
        else if (head.connection === runtimeConnection) this.#takeResponses(body);
        // whatever else there is was not opened by us
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #takeRequests(bytes: Uint8Array): void {
    for (const { head, body } of this.#requests.push(bytes)) {
      if (head.type !== "request") throw new RangeError("the runtime answers where it is to ask");
      if (this.#calls >= bounds.nriCalls.count)
        throw new RangeError(`the runtime makes more than ${bounds.nriCalls.count} calls at a time`);
      this.#calls += 1;
      void this.#serve(head.stream, decodeRequest(body));
    }
  }

  #takeResponses(bytes: Uint8Array): void {
    for (const { head, body } of this.#responses.push(bytes)) {
      if (head.type !== "response" || head.stream !== registerStream)
        throw new RangeError("the runtime answers what nobody asked");
      const response = decodeResponse(body);
      if (!response.ok) throw new Error(`the runtime refuses to register us: ${response.message}`);
      this.#registered.resolve();
    }
  }

  async #serve(stream: number, request: TtrpcRequest): Promise<void> {
    try {
      this.#send(pluginConnection, encodeResponse(stream, await this.#answer(request)));
    } catch (error) {
      // what cannot be read as what it says it is
      this.#fail(error);
    } finally {
      this.#calls -= 1;
    }
  }

  async #answer({ service, method, payload }: TtrpcRequest): Promise<TtrpcResponse> {
    if (service !== services.plugin) return unknownCall(service, method);
    switch (method) {
      case "Configure":
        this.#runtime = decodeGreeting(payload);
        return { ok: true, payload: encodeSubscription(this.#events) };
      case "Synchronize":
        return { ok: true, payload: this.#synchronize(payload) };
      case "RunPodSandbox":
        return await this.#tell("run", decodeSandboxRequest(payload));
      case "CreateContainer":
        return await this.#tell("create", decodeSandboxRequest(payload));
      case "StopPodSandbox":
        return await this.#tell("stop", decodeSandboxRequest(payload));
      case "RemovePodSandbox":
        return await this.#tell("remove", decodeSandboxRequest(payload));
      case "StateChange": {
        const { event, sandbox } = decodeStateChange(payload);
        return await this.#tell(event, sandbox);
      }
      case "Shutdown":
        return nothing;
      default:
        return unknownCall(service, method);
    }
  }

  #synchronize(payload: Uint8Array): Uint8Array {
    const { sandboxes, more } = decodeSynchronization(payload);
    const room = bounds.nriSandboxes.count - this.#sandboxes.length;
    this.#sandboxes.push(...sandboxes.slice(0, room));
    if (!more) {
      const all = this.#sandboxes;
      this.#sandboxes = [];
      this.#options.listener.synchronized(all);
      this.#options.onready(this.#runtime ?? { name: "", version: "", requestTimeoutMs: 0 });
      this.#ready.resolve();
    }
    return encodeSynchronized(more);
  }

  /** A refusal is the listener's word to people; the runtime passes it on. */
  async #tell(event: SandboxEvent | undefined, sandbox: RuntimeSandbox | undefined): Promise<TtrpcResponse> {
    const { listener } = this.#options;
    const timeoutMs = this.#runtime?.requestTimeoutMs ?? 0;
    try {
      if (sandbox === undefined) return nothing;
      if (event === "run") await listener.begins(sandbox, { timeoutMs });
      else if (event === "create") await listener.creates?.(sandbox, { timeoutMs });
      else if (event === "stop") listener.stopped(sandbox);
      else if (event === "remove") listener.removed(sandbox);
    } catch (error) {
      return { ok: false, code: statusCodes.unknown, message: (error as Error).message };
    }
    return nothing;
  }

  #send(connection: number, bytes: Buffer): void {
    const socket = this.#socket;
    if (socket === undefined || socket.destroyed || this.#ended.signal.aborted) return;
    if (socket.writableLength > maxUnsentBytes)
      this.#fail(new Error("the runtime does not read our answers"));
    else socket.write(muxPiece(connection, bytes));
  }
}

function unknownCall(service: string, method: string): TtrpcResponse {
  return { ok: false, code: statusCodes.unimplemented, message: `this plugin has no ${service}/${method}` };
}
