// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { failureKind } from "../../src/enrolment/failure.ts";
import { PodHistory, type PodHistoryOptions } from "../../src/enrolment/pod-history.ts";
import { ApiError } from "../../src/kube/api-error.ts";
import { NetlinkError } from "../../src/linux/netlink/exchange.ts";
import { NetnsError } from "../../src/linux/netns.ts";
import { ToolError } from "../../src/linux/run-tool.ts";
import { ZdsError } from "../../src/ztunnel/zds-error.ts";

let nowMs = 0;
const date = () => new Date(nowMs);

function history(options: PodHistoryOptions = {}): PodHistory {
  nowMs = 0;
  return new PodHistory({ now: () => nowMs, date, ...options });
}

describe("PodHistory", () => {
  test("keeps a change of state with the times of its steps", () => {
    const past = history();
    past.begin("u1");
    nowMs = 12;
    past.step("u1", "sandbox");
    nowMs = 15.04;
    past.step("u1", "rules");
    nowMs = 20;
    past.end("u1", "enrolled", "enrolled");
    expect(past.of("u1").transitions).toEqual([
      {
        at: "1970-01-01T00:00:00.020Z",
        from: "outside",
        to: "enrolled",
        ms: 20,
        steps: [
          { step: "sandbox", ms: 12 },
          { step: "rules", ms: 3 },
        ],
        reason: "rules, ip rule and route are verified, and ztunnel has acknowledged it",
      },
    ]);
  });

  test("keeps nothing of a run that changes nothing", () => {
    const past = history();
    for (let i = 0; i < 3; i++) {
      past.begin("u1");
      past.step("u1", "rules");
      past.end("u1", "enrolled", "enrolled");
    }
    expect(past.of("u1").transitions).toHaveLength(1);
  });

  test("keeps a failure until a run gets there, and counts the attempts", () => {
    const past = history();
    for (const message of ["first", "second"])
      past.failed("u1", { kind: "rules", message, remedy: "; look at the log" });
    past.end("u1", "failed", "failed");
    expect(past.of("u1").failure).toMatchObject({
      message: "second",
      attempts: 2,
      remedy: "look at the log",
    });
    past.end("u1", "enrolled", "enrolled");
    expect(past.of("u1").failure).toBeUndefined();
  });

  test("keeps the failure of a pod that stays captured, and of one that is left as it is", () => {
    const past = history();
    past.end("u1", "enrolled", "enrolled");
    past.failed("u1", { kind: "rules", message: "iptables is gone", remedy: "" });
    past.end("u1", "enrolled", "failed");
    expect(past.of("u1")).toMatchObject({ failure: { message: "iptables is gone" }, transitions: [{}] });
    past.failed("u2", { kind: "namespace", message: "no labels", remedy: "" });
    past.end("u2", "outside", "namespace-unknown");
    expect(past.of("u2").failure?.message).toBe("no labels");
  });

  test("forgets the last look when the pod leaves the mesh", () => {
    const past = history();
    past.looked("u1", { netnsKey: "4:1", skippedFamilies: [] });
    past.end("u1", "enrolled", "enrolled");
    expect(past.of("u1").look?.netnsKey).toBe("4:1");
    past.end("u1", "outside", "outside");
    expect(past.of("u1").look).toBeUndefined();
  });

  test("measures from the first word until the capture, once", () => {
    const captured: number[] = [];
    const past = history({ listener: { captured: (seconds) => captured.push(seconds) } });
    nowMs = 1000;
    past.asked("u1");
    nowMs = 1500;
    past.asked("u1");
    nowMs = 3000;
    past.end("u1", "pending", "failed");
    past.end("u1", "enrolled", "enrolled");
    past.asked("u1");
    past.end("u1", "enrolled", "enrolled");
    expect(captured).toEqual([2]);
  });

  test("does not measure a captured pod again that could not be verified for a while", () => {
    const captured: number[] = [];
    const past = history({ listener: { captured: (seconds) => captured.push(seconds) } });
    past.asked("u1");
    nowMs = 1000;
    past.end("u1", "enrolled", "enrolled");
    past.failed("u1", { kind: "rules", message: "the rules change while they are read", remedy: "" });
    past.end("u1", "unverified", "failed");
    past.asked("u1");
    nowMs = 60_000;
    past.end("u1", "enrolled", "enrolled");
    expect(captured).toEqual([1]);
    expect(past.of("u1").transitions.slice(1)).toMatchObject([
      { from: "enrolled", to: "unverified", reason: "the rules change while they are read" },
      { from: "unverified", to: "enrolled", reason: expect.stringContaining("verified") },
    ]);
    expect(past.of("u1").failure).toBeUndefined();
  });

  test("does not measure a pod that turned out not to be wanted", () => {
    const captured: number[] = [];
    const past = history({ listener: { captured: (seconds) => captured.push(seconds) } });
    past.asked("u1");
    past.end("u1", "waiting", "no-ztunnel");
    past.end("u1", "outside", "outside");
    nowMs = 60_000;
    past.asked("u1");
    nowMs = 61_000;
    past.end("u1", "enrolled", "enrolled");
    expect(captured).toEqual([1]);
  });

  test("a run that finds a pod outside ends the wait although the state does not change", () => {
    const captured: number[] = [];
    const past = history({ listener: { captured: (seconds) => captured.push(seconds) } });
    past.asked("u1");
    past.end("u1", "outside", "outside");
    nowMs = 60_000;
    past.asked("u1");
    past.end("u1", "enrolled", "enrolled");
    expect(captured).toEqual([0]);
  });

  test("is bounded in pods, changes and words", () => {
    const past = history({ maxPods: 3, maxTransitions: 2 });
    for (const uid of ["a", "b", "c"]) past.begin(uid);
    past.begin("a");
    past.begin("d");
    expect(past.size).toBe(3);
    past.looked("a", { netnsKey: "4:1", skippedFamilies: [] });
    expect(past.of("a").look).toBeDefined();
    expect(past.of("b")).toEqual({ transitions: [], look: undefined, failure: undefined });
    for (const state of ["pending", "enrolled", "pending"] as const) {
      past.failed("a", { kind: "other", message: "x".repeat(5000), remedy: "y".repeat(5000) });
      past.end("a", state, "failed");
    }
    expect(past.of("a").transitions.map(({ to }) => to)).toEqual(["enrolled", "pending"]);
    expect(past.of("a").transitions[0]?.reason.length).toBeLessThan(600);
    expect(past.of("a").failure?.remedy.length).toBeLessThan(600);
    past.forget("a");
    expect(past.of("a").transitions).toEqual([]);
  });

  test("takes a step and an end without a beginning", () => {
    const past = history();
    past.step("u1", "rules");
    past.end("u1", "failed", "failed");
    expect(past.of("u1").transitions).toMatchObject([{ ms: 0, steps: [] }]);
  });
});

describe("failureKind", () => {
  test.each([
    [new ZdsError("NACK", "x"), "ztunnel-refused"],
    [new ZdsError("NO_CONNECTION", "x"), "ztunnel"],
    [new ToolError("TOOL_FAILED", "x"), "rules"],
    [new NetlinkError("x", "EPERM", "y"), "kernel"],
    [new NetnsError("/x", "ENOENT", "y"), "sandbox"],
    [new ApiError("x", { reason: "Timeout" }), "api"],
    // what it is says its class, not its name
    [Object.assign(new Error("x"), { name: "ToolError" }), "other"],
    [new Error("x"), "other"],
    ["text", "other"],
  ])("sorts %s as %s", (error, kind) => {
    expect(failureKind(error)).toBe(kind);
  });
});
