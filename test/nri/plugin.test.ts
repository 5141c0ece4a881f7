// SPDX-License-Identifier: Apache-2.0
// The agent as a plugin of a runtime, over a real socket: what it says, what it makes of what it hears, and how it comes back.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { bounds } from "../../src/bounds/bounds.ts";
import { Backoff } from "../../src/loop/backoff.ts";
import type { RuntimeSandbox } from "../../src/nri/messages.ts";
import { muxPiece, pluginConnection, runtimeConnection } from "../../src/nri/mux.ts";
import { NriPlugin } from "../../src/nri/plugin.ts";
import type { SandboxListener } from "../../src/nri/session.ts";
import { encodeRequest, encodeResponse } from "../../src/nri/ttrpc.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { type PluginLink, ScriptedRuntime } from "./scripted-runtime.ts";
import { greeting, sandbox, sandboxRequest, stateChange, synchronization } from "./words.ts";

let folder: string;
let runtime: ScriptedRuntime | undefined;
let plugin: NriPlugin;
let log: ReturnType<typeof recordingLogger>;
let heard: string[];
let begins: SandboxListener["begins"];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "nri-"));
  heard = [];
  log = recordingLogger();
  begins = async ({ name }, { timeoutMs }) => void heard.push(`begins ${name}, ${timeoutMs} ms`);
  plugin = new NriPlugin({
    path: join(folder, "nri.sock"),
    listener: {
      synchronized: (all) => void heard.push(`all ${all.map(({ name }) => name).join(" ")}`),
      begins: (...call) => begins(...call),
      creates: async ({ name }) => {
        if (name === "web-9") throw new Error("Cannot capture pod");
        heard.push(`creates in ${name}`);
      },
      stopped: ({ name }) => void heard.push(`stopped ${name}`),
      removed: ({ name }) => void heard.push(`removed ${name}`),
    },
    log,
    backoff: new Backoff({ baseMs: 10, capMs: 20 }),
    lookMs: 20,
  });
});
afterEach(async () => {
  await plugin.stop();
  await runtime?.[Symbol.asyncDispose]();
  runtime = undefined;
  rmSync(folder, { recursive: true });
});

/** A runtime that has greeted the plugin. */
async function greeted(pods: readonly RuntimeSandbox[] = []): Promise<PluginLink> {
  runtime = await ScriptedRuntime.start(plugin.path);
  const started = plugin.start();
  const link = await runtime.plugin();
  await link.greet(greeting(), synchronization(pods));
  await started;
  return link;
}

const empty = { ok: true, payload: Buffer.alloc(0) };
const away = () => waitFor("the session to end", () => plugin.state === "away", { timeoutMs: 5_000 });

describe("a session", () => {
  test("begins with who we are, and then the runtime tells of all sandboxes", async () => {
    const link = await greeted([sandbox]);
    expect(link.asked.map(({ service, method }) => `${service}/${method}`)).toEqual([
      "nri.pkg.api.v1alpha1.Runtime/RegisterPlugin",
    ]);
    expect(Buffer.from(link.asked[0]?.payload ?? []).toString("latin1")).toBe("\n\x0bambient-cni\x12\x0299");
    expect(heard).toEqual(["all web-0"]);
    expect(plugin.state).toBe("connected");
    expect(plugin.runtime).toEqual({ name: "containerd", version: "2.1.9", requestTimeoutMs: 2000 });
    expect(plugin.registrations).toBe(1);
  });

  test("takes a list of sandboxes in several parts as one", async () => {
    runtime = await ScriptedRuntime.start(plugin.path);
    void plugin.start();
    const link = await runtime.plugin();
    await waitFor("the registration", () => link.asked.length === 1);
    const more = await link.call("Synchronize", synchronization([sandbox], true));
    expect(more).toEqual({ ok: true, payload: Buffer.from("1001", "hex") });
    expect(heard).toEqual([]);
    expect(await link.call("Synchronize", synchronization([{ ...sandbox, name: "web-1" }]))).toEqual(empty);
    expect(heard).toEqual(["all web-0 web-1"]);
  });

  test.each([
    ["as runtimes have it since NRI 0.9", "RunPodSandbox", sandboxRequest(sandbox), "begins web-0, 2000 ms"],
    ["as they had it before", "StateChange", stateChange(1, sandbox), "begins web-0, 2000 ms"],
    ["that gets a container", "CreateContainer", sandboxRequest(sandbox), "creates in web-0"],
    ["that stops", "StopPodSandbox", sandboxRequest(sandbox), "stopped web-0"],
    ["that is removed", "RemovePodSandbox", sandboxRequest(sandbox), "removed web-0"],
    ["that stops, as before", "StateChange", stateChange(2, sandbox), "stopped web-0"],
    ["that is removed, as before", "StateChange", stateChange(3, sandbox), "removed web-0"],
    ["and of nothing else", "StateChange", stateChange(9, sandbox), undefined],
  ])("hears of a sandbox %s", async (_what, method, payload, expected) => {
    const link = await greeted();
    expect(await link.call(method, payload)).toEqual(empty);
    expect(heard.slice(1)).toEqual(expected === undefined ? [] : [expected]);
  });

  test("refuses a sandbox, or a container, with the listener's sentence, and goes on", async () => {
    const link = await greeted();
    begins = () => Promise.reject(new Error("Cannot capture pod"));
    const refusal = { ok: false, code: 2, message: "Cannot capture pod" };
    expect(await link.call("RunPodSandbox", sandboxRequest(sandbox))).toEqual(refusal);
    expect(await link.call("StateChange", stateChange(1, sandbox))).toEqual(refusal);
    expect(await link.call("CreateContainer", sandboxRequest({ ...sandbox, name: "web-9" }))).toEqual(
      refusal,
    );
    expect(await link.call("Shutdown", new Uint8Array())).toEqual(empty);
    expect(plugin.state).toBe("connected");
  });

  test.each([
    ["another method", "UpdateContainer", undefined],
    ["another service", "RunPodSandbox", "nri.pkg.api.v1alpha1.Other"],
  ])("says that it has no %s", async (_what, method, service) => {
    const link = await greeted();
    expect(await link.call(method, sandboxRequest(sandbox), service)).toMatchObject({ ok: false, code: 12 });
    expect(heard.slice(1)).toEqual([]);
  });

  test("answers others while one call takes its time", async () => {
    const link = await greeted();
    const done = Promise.withResolvers<void>();
    begins = () => done.promise;
    const slow = link.call("RunPodSandbox", sandboxRequest(sandbox));
    expect(await link.call("StopPodSandbox", sandboxRequest(sandbox))).toEqual(empty);
    done.resolve();
    expect(await slow).toEqual(empty);
  });

  test("ignores pieces of connections that nobody opened", async () => {
    const link = await greeted();
    link.write(muxPiece(9, Buffer.from("whatever")));
    expect(await link.call("Shutdown", new Uint8Array())).toEqual(empty);
  });
});

describe("a session ends, is said once, and another one begins", () => {
  const call = (stream: number, payload: Uint8Array) =>
    encodeRequest(stream, {
      service: "nri.pkg.api.v1alpha1.Plugin",
      method: "RunPodSandbox",
      payload,
      timeoutMs: 1,
    });
  const many = () =>
    Buffer.concat(
      Array.from({ length: bounds.nriCalls.count + 1 }, (_, index) =>
        muxPiece(pluginConnection, call(101 + 2 * index, sandboxRequest(sandbox))),
      ),
    );
  test.each([
    ["garbage", () => Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), /may have 4194314/],
    ["a piece that is too large", () => Buffer.from("00000001ffffffff", "hex"), /has 4294967295 bytes/],
    [
      "a request that is no protobuf",
      () => muxPiece(1, Buffer.from("00000001000000650100ff", "hex")),
      /cut off/,
    ],
    ["a sandbox that is no protobuf", () => muxPiece(1, call(101, Uint8Array.of(10, 9, 1))), /cut off/],
    [
      "an answer where it is to ask",
      () => muxPiece(1, encodeResponse(1, { ok: true, payload: Buffer.alloc(0) })),
      /answers where it is to ask/,
    ],
    [
      "an answer to nothing",
      () => muxPiece(runtimeConnection, encodeResponse(9, { ok: true, payload: Buffer.alloc(0) })),
      /what nobody asked/,
    ],
    ["more calls than can be", many, /more than 64 calls at a time/],
  ])("after %s", async (_what, bytes, reason) => {
    const link = await greeted();
    begins = () => new Promise(() => {});
    link.write(bytes());
    await away();
    expect(plugin.fault).toMatch(reason);
    expect(log.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    await (await (runtime as ScriptedRuntime).plugin(1)).greet();
    await waitFor("the next session", () => plugin.state === "connected");
    expect(plugin.registrations).toBe(2);
    expect(plugin.fault).toBeUndefined();
  });

  test("after the runtime closed it, also in the middle of a message", async () => {
    const link = await greeted();
    link.write(Buffer.from("0000", "hex"));
    link.socket.end();
    await away();
    expect(plugin.fault).toBe("the runtime closed the connection in the middle of a message");
  });

  test("when the runtime does not want us", async () => {
    runtime = await ScriptedRuntime.start(plugin.path);
    void plugin.start();
    const link = await runtime.plugin();
    link.write(muxPiece(runtimeConnection, encodeResponse(1, { ok: false, code: 2, message: "no plugins" })));
    await away();
    expect(plugin.fault).toBe("the runtime refuses to register us: no plugins");
  });
});

describe("without a socket", () => {
  test("a start waits for nothing, and one that comes is found", async () => {
    await plugin.start();
    expect(plugin.state).toBe("absent");
    runtime = await ScriptedRuntime.start(plugin.path);
    await (await runtime.plugin()).greet(greeting(), synchronization([sandbox]));
    await waitFor("the session", () => plugin.state === "connected");
    expect(log.lines.filter(({ level }) => level === "warn")).toEqual([]);
  });

  test("after its end the runtime's next socket is found", async () => {
    await greeted();
    await runtime?.[Symbol.asyncDispose]();
    await away();
    runtime = await ScriptedRuntime.start(plugin.path);
    await (await runtime.plugin()).greet();
    await waitFor("the session", () => plugin.state === "connected");
  });
});

test("a stop ends the session and asks for no other", async () => {
  const link = await greeted();
  const closed = new Promise((resolve) => link.socket.once("close", resolve));
  await plugin.stop();
  await closed;
  expect(log.lines.filter(({ level }) => level === "warn")).toEqual([]);
});
