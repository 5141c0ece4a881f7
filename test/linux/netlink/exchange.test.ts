// SPDX-License-Identifier: Apache-2.0
// When a reading counts and when it is repeated, without a kernel.
import { expect, test } from "vitest";
import { NativeError } from "../../../src/linux/native.ts";
import { check, errorCode, repeatUntilConsistent } from "../../../src/linux/netlink/exchange.ts";
import type { NetlinkAnswer } from "../../../src/linux/netlink/message.ts";

const FINE: NetlinkAnswer = { error: 0, reason: undefined, interrupted: false, messages: [] };
const INTERRUPTED = { ...FINE, interrupted: true };
const LOST = new NativeError("read", -105, "recvmsg");
const DENIED = new NativeError("read", -1, "setns");

/** Gives the prepared outcomes one by one and counts the calls. */
function asker(...outcomes: (NetlinkAnswer | Error)[]) {
  const asked = { times: 0 };
  const ask = async () => {
    const outcome = outcomes[Math.min(asked.times++, outcomes.length - 1)] as NetlinkAnswer | Error;
    if (outcome instanceof Error) throw outcome;
    return [FINE, outcome];
  };
  return { ask, asked };
}

test.each([
  { what: "the first reading is whole", outcomes: [FINE], times: 1 },
  { what: "one list was interrupted", outcomes: [INTERRUPTED, FINE], times: 2 },
  { what: "an answer was lost", outcomes: [LOST, INTERRUPTED, FINE], times: 3 },
  { what: "only the last attempt is whole", outcomes: [LOST, LOST, LOST, LOST, FINE], times: 5 },
])("a reading takes $times attempts when $what", async ({ outcomes, times }) => {
  const { ask, asked } = asker(...outcomes);
  expect(await repeatUntilConsistent(ask)).toEqual([FINE, FINE]);
  expect(asked.times).toBe(times);
});

test.each([
  { what: "every list was interrupted", outcome: INTERRUPTED, code: "EAGAIN", times: 5 },
  { what: "every answer was lost", outcome: LOST, code: "ENOBUFS", times: 5 },
  { what: "the conversation fails for another reason", outcome: DENIED, code: "EPERM", times: 1 },
])("a reading fails with $code after $times attempts when $what", async ({ outcome, code, times }) => {
  const { ask, asked } = asker(outcome);
  await expect(repeatUntilConsistent(ask)).rejects.toMatchObject({ code });
  expect(asked.times).toBe(times);
});

test.each([
  { error: 0, code: "errno 0" },
  { error: -17, code: "EEXIST" },
  { error: -100, code: "ENETDOWN" },
  { error: -4_000, code: "errno 4000" },
  { error: undefined, code: "no answer" },
])("error $error reads $code", ({ error, code }) => {
  expect(errorCode(error)).toBe(code);
});

test("check passes success and names the errno and the kernel's reason otherwise", () => {
  check("do it", FINE);
  expect(() => check("do it", { ...FINE, error: -22, reason: "no good" })).toThrow(
    "Cannot do it: EINVAL (no good)",
  );
  expect(() => check("do it", { ...FINE, error: undefined })).toThrow("Cannot do it: no answer");
});
