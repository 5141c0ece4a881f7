// SPDX-License-Identifier: Apache-2.0
// What a plugin says and hears, byte for byte.
import { describe, expect, test } from "vitest";
import {
  decodeGreeting,
  decodeSandboxRequest,
  decodeStateChange,
  decodeSynchronization,
  encodeRegistration,
  encodeSubscription,
  encodeSynchronized,
} from "../../src/nri/messages.ts";
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from "../../src/nri/ttrpc.ts";
import { greeting, sandbox, sandboxRequest, stateChange, synchronization } from "./words.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

describe("what we say", () => {
  test("who we are", () => {
    expect(hex(encodeRegistration({ name: "ab", index: "99" }))).toBe("0a026162" + "12023939");
  });

  test("what we want to hear of: a bit for each event, of which the first has the number 1", () => {
    expect(hex(encodeSubscription(["run", "stop", "remove"]))).toBe("1007");
    expect(hex(encodeSubscription(["run", "stop", "remove", "create"]))).toBe("100f");
  });

  test("that no container is to be changed, and whether more may come", () => {
    expect(hex(encodeSynchronized(false))).toBe("");
    expect(hex(encodeSynchronized(true))).toBe("1001");
  });

  test("a call: length, stream, type, flags, then the request", () => {
    const call = { service: "s", method: "m", payload: Uint8Array.of(9), timeoutMs: 1 };
    expect(hex(encodeRequest(1, call))).toBe(
      "0000000d" + "00000001" + "01" + "00" + "0a0173" + "12016d" + "1a0109" + "20c0843d",
    );
  });

  test("an answer, and a refusal with its status", () => {
    expect(hex(encodeResponse(3, { ok: true, payload: new Uint8Array() }))).toBe(
      "00000002" + "00000003" + "0200" + "1200",
    );
    const refusal = encodeResponse(3, { ok: false, code: 2, message: "no" });
    expect(hex(refusal)).toBe("00000008" + "00000003" + "0200" + "0a06" + "0802" + "12026e6f");
    expect(decodeResponse(refusal.subarray(10))).toEqual({ ok: false, code: 2, message: "no" });
  });

  test("a refusal that fits into the buffer of 4096 bytes in which the runtime takes one piece", () => {
    const refusal = encodeResponse(3, { ok: false, code: 2, message: "é".repeat(5000) });
    expect(refusal.length + 8).toBeLessThan(4096);
  });
});

describe("what we hear", () => {
  test("who greets us", () => {
    expect(decodeGreeting(greeting())).toEqual({
      name: "containerd",
      version: "2.1.9",
      requestTimeoutMs: 2000,
    });
    expect(decodeGreeting(greeting("9".repeat(500))).version).toBe(`${"9".repeat(125)}…`);
  });

  test("a sandbox, with its network's path and without all else", () => {
    expect(decodeSandboxRequest(sandboxRequest(sandbox))).toEqual(sandbox);
    const host = { ...sandbox, netnsPath: "", ips: [] };
    expect(decodeSandboxRequest(sandboxRequest(host))).toEqual(host);
    expect(decodeSandboxRequest(new Uint8Array())).toBeUndefined();
  });

  test.each([
    [1, "run"],
    [2, "stop"],
    [3, "remove"],
    [5, undefined],
  ])("a change of a sandbox's state: %d is %s", (event, expected) => {
    expect(decodeStateChange(stateChange(event, sandbox))).toEqual({ event: expected, sandbox });
  });

  test("all sandboxes, and whether more come", () => {
    const other = { ...sandbox, id: "cd".repeat(32) };
    expect(decodeSynchronization(synchronization([sandbox, other], true))).toEqual({
      sandboxes: [sandbox, other],
      more: true,
    });
    expect(decodeSynchronization(synchronization([]))).toEqual({ sandboxes: [], more: false });
  });

  test.each([
    ["id", { id: "a".repeat(256) }],
    ["name", { name: "a".repeat(254) }],
    ["namespace", { namespace: "a".repeat(254) }],
    ["path", { netnsPath: `/${"a".repeat(4095)}` }],
  ])("a sandbox with a %s that is too long is none: what is cut off would be another's", (_what, part) => {
    expect(decodeSandboxRequest(sandboxRequest({ ...sandbox, ...part }))).toBeUndefined();
  });

  test("of too many addresses the first, and none that is too long", () => {
    const ips = ["x".repeat(46), ...Array.from({ length: 40 }, (_, index) => `10.0.0.${index}`)];
    expect(decodeSandboxRequest(sandboxRequest({ ...sandbox, ips }))?.ips).toEqual(ips.slice(1, 17));
  });

  test.each([
    ["a field that is cut off", "0a05ab"],
    ["a wire type that there is not", "0f"],
    ["a field without a number", "0001"],
    ["a method whose name is longer than any", `12${"8101"}${"61".repeat(129)}`],
  ])("a request with %s is refused", (_what, text) => {
    expect(() => decodeRequest(Buffer.from(text, "hex"))).toThrow(RangeError);
  });
});
