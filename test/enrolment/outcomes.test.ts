// SPDX-License-Identifier: Apache-2.0
// What is told of a pod whose rules cannot be verified: once for each time, and that it ends.
import { expect, test } from "vitest";
import { Outcomes } from "../../src/enrolment/outcomes.ts";
import { PodRecord } from "../../src/enrolment/pod-record.ts";
import type { Phase } from "../../src/enrolment/workload.ts";
import { NetlinkError } from "../../src/linux/netlink/exchange.ts";
import { NetnsError } from "../../src/linux/netns.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { RedirectionError, type RedirectionErrorCode } from "../../src/redirection/redirection-error.ts";
import { ZdsError } from "../../src/ztunnel/zds-error.ts";
import { workloadOf } from "./pure-pod.ts";

const cause = "Cannot read the rules: they changed during each attempt; look for what writes them";

function error(code: RedirectionErrorCode, message = cause): RedirectionError {
  return new RedirectionError(code, message);
}

function make(at: "captured" | "held" | "told" = "captured") {
  const events: string[] = [];
  const lines: string[] = [];
  const note = (_: unknown, message: string): void => void lines.push(message);
  const outcomes = new Outcomes({
    events: { record: (_, { reason, message }) => void events.push(`${reason}: ${message}`) },
    history: { failed: () => {} },
    log: { ...silentLogger, info: note, warn: note } as typeof silentLogger,
    reconcileIntervalMs: 30_000,
    clock: { nowMs: () => 0 },
    random: () => 1,
  });
  const record = new PodRecord("u1");
  const phase: Phase = at === "held" ? { at, isProved: false } : { at };
  record.become(workloadOf({ phase }));
  return { outcomes, record, events, lines };
}

test.each([
  ["captured", "UNSTEADY", "unverified"],
  ["held", "UNSTEADY", "unverified"],
  ["told", "UNSTEADY", "failed"],
  ["captured", "TABLE_DORMANT", "failed"],
  ["held", "TABLE_DORMANT", "pending"],
  ["captured", "NETNS_CLOSED", "enrolled"],
] as const)("a %s pod with %s is %s", (at, code, state) => {
  const { outcomes, record } = make(at);
  outcomes.failed(record, error(code));
  expect(record.state).toBe(state);
});

test("a pod that cannot be verified is told once, with a bounded cause and what becomes of it, and tried ever later", () => {
  const { outcomes, record, events, lines } = make();
  const long = error("UNSTEADY", "x".repeat(5_000));
  const pauses = [1, 2, 3, 4].map(() => outcomes.failed(record, long));
  expect(pauses).toEqual([500, 1_000, 2_000, 4_000]);
  expect(events).toEqual([
    expect.stringMatching(/^AmbientCannotVerify: .*the log of this node.*looked at again$/),
  ]);
  expect(events[0]?.length).toBeLessThan(1_024);
  expect(lines).toEqual(["cannot verify a pod's rules; trying again"]);
});

test("it ends with the first look that succeeds, and may begin again", () => {
  const { outcomes, record, events, lines } = make();
  outcomes.failed(record, error("UNSTEADY"));
  outcomes.rested(record, { do: "rest", outcome: "enrolled" });
  expect(record.state).toBe("enrolled");
  expect(lines.at(-1)).toBe("a pod's rules can be verified again");
  outcomes.failed(record, error("TOO_MANY_RULES"));
  expect(events).toHaveLength(2);
});

test("it does not end with a run that has not looked", () => {
  const { outcomes, record, lines } = make();
  outcomes.failed(record, error("UNSTEADY"));
  outcomes.rested(record, { do: "rest", outcome: "namespace-unknown" });
  outcomes.failed(record, new NetnsError("/proc/1", "ENOENT", "gone"));
  expect(record.state).toBe("unverified");
  expect(lines).not.toContain("a pod's rules can be verified again");
});

test("what keeps ztunnel from a captured pod comes after a look at its rules", () => {
  for (const code of ["NACK", "NO_CONNECTION"] as const) {
    const { outcomes, record, lines } = make();
    outcomes.failed(record, error("UNSTEADY"));
    outcomes.failed(record, new ZdsError(code, "no"));
    expect(record.state).toBe("enrolled");
    expect(lines).toContain("a pod's rules can be verified again");
  }
});

test("of a pod that keeps changing its annotations, what cannot be followed is told three times, then seldom", () => {
  const { outcomes, record, lines } = make();
  for (let change = 1; change <= 1_000; change++) {
    const warnings = [`Cannot use ${change}`];
    const desired = { wanted: true, selector: 0, redirect: {} as never, warnings } as const;
    outcomes.warnOnce(record, desired);
    outcomes.warnOnce(record, desired);
  }
  expect(lines).toEqual([1, 2, 3, 10, 100, 1_000].map((change) => `Cannot use ${change}`));
});

test('a captured pod whose "lo" is down is told of when that lasts, another one at once', () => {
  const down = new NetlinkError("route redirected packets", "ENETDOWN", "the loopback device is down");
  const { outcomes, record, events, lines } = make();
  const pauses = [1, 2, 3, 4].map(() => outcomes.failed(record, down));
  expect([pauses, events, lines]).toEqual([[200, 1_000, 2_000, 4_000], [], []]);
  expect(record.state).toBe("enrolled");
  outcomes.failed(record, down);
  expect(events).toEqual([expect.stringMatching(/^AmbientNotCaptured: .*loopback device is down/)]);
  const other = make("told");
  other.outcomes.failed(other.record, down);
  expect(other.lines).toEqual(["pod not captured; trying again"]);
});
