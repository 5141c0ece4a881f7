// SPDX-License-Identifier: Apache-2.0
// A process' capabilities as its status file lists them.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { holds, parseCapabilities } from "../../src/linux/process-capabilities.ts";

const none = { effective: 0n, permitted: 0n, bounding: 0n, noNewPrivs: false };

test.each([
  [
    "CapInh:\t0000000000000000\nCapPrm:\t0000000000002000\nCapEff:\t0000000000001000\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n",
    { effective: 0x1000n, permitted: 0x2000n, bounding: 0xa80425fbn, noNewPrivs: true },
  ],
  ["CapEff:\tffffffffffffffff\nNoNewPrivs:\t0\n", { ...none, effective: (1n << 64n) - 1n }],
  // a name may hold anything but a line end
  ["Name:\tCapEff:\t0000000000001000\nCapEff:\t0000000000000000\n", none],
  ["CapEff:\tffffffffffffffffff\nNoNewPrivs:\t11\n", none],
  ["", none],
])("of %j", (status, sets) => {
  expect(parseCapabilities(status)).toEqual(sets);
});

test("a capability is a bit of a set", () => {
  const { effective } = parseCapabilities("CapEff:\t0000000000202000\n");
  const names = ["NET_RAW", "SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"] as const;
  expect(names.filter((name) => holds(effective, name))).toEqual(["NET_RAW", "SYS_ADMIN"]);
});

test("of this process, as the kernel prints it", () => {
  const { effective, bounding } = parseCapabilities(readFileSync("/proc/self/status", "utf8"));
  expect(effective & ~bounding).toBe(0n);
});
