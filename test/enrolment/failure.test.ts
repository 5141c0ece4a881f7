// SPDX-License-Identifier: Apache-2.0
// Failures and outcomes as values: what is done about each, and what people are told.
import { expect, test } from "vitest";
import { type FailureCode, failureOf, portsHeld, StepError } from "../../src/enrolment/failure.ts";
import {
  isSettled,
  type ReconcileOutcome,
  reasonOf,
  unfinishedOf,
  waitOf,
} from "../../src/enrolment/run-outcome.ts";
import { NetlinkError } from "../../src/linux/netlink/exchange.ts";
import type { PortHolder } from "../../src/linux/port-holders.ts";
import { ToolError } from "../../src/linux/run-tool.ts";
import { NetfilterFault } from "../../src/netfilter/netfilter-fault.ts";
import { RedirectionError, type RedirectionErrorCode } from "../../src/redirection/redirection-error.ts";
import { ZdsError, type ZdsErrorCode } from "../../src/ztunnel/zds-error.ts";

test.each<[ZdsErrorCode, FailureCode]>([
  ["NACK", "ztunnel-refused"],
  ["NO_CONNECTION", "ztunnel-away"],
  ["SUPERSEDED", "other"],
])("a request of ztunnel's that ends in %s is %s, whatever its words are", (code, expected) => {
  for (const words of ["no ztunnel connection", "refused", ""])
    expect(failureOf(new ZdsError(code, words)).code).toBe(expected);
});

test.each<[RedirectionErrorCode, "unknown" | "wrong" | undefined]>([
  ["UNSTEADY", "unknown"],
  ["TOO_MANY_RULES", "unknown"],
  ["UNREADABLE_TABLE", "unknown"],
  ["HOOK_TAKEN", "unknown"],
  ["NO_KNOWN_BYTES", "unknown"],
  ["TABLE_DORMANT", "wrong"],
  ["TABLE_OWNED", "wrong"],
  ["BATCH_REFUSED", "wrong"],
  ["NOT_AS_TOLD", "wrong"],
  ["NOT_CONVERGED", "wrong"],
  ["NETNS_CLOSED", undefined],
  ["HOST_NETNS", undefined],
])("%s says that the pod's rules are %s, whatever its words are", (code, rules) => {
  for (const words of ["Cannot verify", "wrong", ""]) {
    expect(failureOf(new RedirectionError(code, words)).rules).toBe(rules);
    if (
      code !== "NETNS_CLOSED" &&
      code !== "HOST_NETNS" &&
      code !== "UNREADABLE_TABLE" &&
      code !== "NOT_CONVERGED"
    )
      expect(failureOf(new NetfilterFault(code, words))).toMatchObject({ rules, kind: "rules" });
  }
});

test.each<[string, Error, "unknown" | undefined]>([
  ["a program that wrote too much", new ToolError("TOOL_OUTPUT_TOO_LONG", "x"), "unknown"],
  ["a program that did not end", new ToolError("TOOL_TIMED_OUT", "x"), "unknown"],
  ["a list that changed each time", new NetlinkError("read", "EAGAIN", "x"), "unknown"],
  ["a refusal of the kernel", new NetlinkError("write", "ENETDOWN", "x"), undefined],
  ["ztunnel", new ZdsError("NACK", "x"), undefined],
  ["anything else", new Error("x"), undefined],
])("%s leaves the pod's rules %s unknown, or says nothing of them", (_, error, rules) => {
  expect(failureOf(error).rules).toBe(rules);
});

test("an error that nobody has a class for keeps its words, and sends people to the log", () => {
  expect(failureOf(new Error("no ztunnel connection"))).toMatchObject({
    code: "other",
    kind: "other",
    message: "no ztunnel connection",
    remedy: expect.stringContaining("log"),
  });
  expect(failureOf("text")).toMatchObject({ code: "other", message: "text" });
});

test.each<[string, PortHolder, string]>([
  [
    "port, program and process",
    { port: 15001, protocol: "tcp", pid: 7, command: "nginx" },
    'tcp port 15001 is held by "nginx" (process 7)',
  ],
  [
    "the process alone where its program is not told",
    { port: 15053, protocol: "udp", pid: 7 },
    "udp port 15053 is held by a program (process 7)",
  ],
  [
    "the port alone where its owner is not found",
    { port: 15006, protocol: "tcp" },
    "tcp port 15006 is held by an owner that is not found",
  ],
])("a refusal over a port names %s", (_, holder, words) => {
  const error = portsHeld(new ZdsError("NACK", "ztunnel refused"), [holder]);
  expect(error).toBeInstanceOf(StepError);
  expect(failureOf(error)).toMatchObject({ code: "ztunnel-refused", message: "ztunnel refused" });
  expect(failureOf(error).remedy).toContain(words);
  expect(failureOf(error).remedy).not.toContain("undefined");
});

test.each<[ReconcileOutcome, { settled?: true; waits?: FailureCode; failsAdd?: true }]>([
  ["enrolled", { settled: true }],
  ["outside", { settled: true }],
  ["forgotten", { settled: true, failsAdd: true }],
  ["leaving", { failsAdd: true }],
  ["kept", { failsAdd: true }],
  ["stock-taken", {}],
  ["no-sandbox", { waits: "sandbox-missing", failsAdd: true }],
  ["no-way-out", { waits: "sandbox-missing", failsAdd: true }],
  ["no-ztunnel", { waits: "ztunnel-away" }],
  ["namespace-unknown", { failsAdd: true }],
])("outcome %s comes to %j, in one sentence", (outcome, { settled, waits, failsAdd }) => {
  expect(isSettled(outcome)).toBe(settled === true);
  expect(waitOf(outcome)?.code).toBe(waits);
  expect(unfinishedOf(outcome) !== undefined).toBe(failsAdd === true);
  expect(reasonOf(outcome)).toMatch(/ .*[^.]$/);
  if (waits !== undefined) expect(waitOf(outcome)?.message).toBe(reasonOf(outcome));
});
