// SPDX-License-Identifier: Apache-2.0
// Attacks of a pod on its own rules: nobody else is hurt, of the attacker's pod is said what can be known, and it ends by itself.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { patience } from "../support/node/patience.ts";

type Inside = typeof import("./unverifiable.inside.ts");
let node: NodeModule<Inside>;
let quietMs = 0;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "unverifiable.inside.ts"));
  quietMs = await node.call.quietAdd();
});
afterAll(async () => {
  await node?.stop();
});

/** Not to hang; how much slower an ADD is, is measured and not claimed. */
const addLimitMs = 15_000;

/** What the attacker's pod comes to, and what `verify` may then say. */
interface Row {
  readonly state: "enrolled" | "unverified" | "failed";
  readonly codes: readonly number[];
  /** States between which chance decides. */
  readonly orElse?: readonly string[];
}

describe("an attack on the pod's own rules", { timeout: 180_000 * patience() }, () => {
  test.each<[string, Row]>([
    ["rules that iptables cannot print", { state: "enrolled", codes: [0] }],
    // `verify` lists chains of others for names of ours: 3 while that is too much for it
    ["200,000 rules in a table of others and in a chain beside ours", { state: "enrolled", codes: [0, 3] }],
    ["20,000 rules before our jump", { state: "unverified", codes: [4, 3] }],
    [
      "a generation that changes without end, and a flush",
      { state: "enrolled", codes: [0, 4], orElse: ["unverified"] },
    ],
    ["a table that another process owns", { state: "failed", codes: [1] }],
    ["a table that is put to sleep", { state: "failed", codes: [1] }],
    ["a base chain that hangs elsewhere", { state: "unverified", codes: [4] }],
    [
      "a flush between any two steps",
      { state: "enrolled", codes: [0, 1, 4], orElse: ["unverified", "failed"] },
    ],
    ["names of chains with line breaks and ESC, that forge a listing", { state: "enrolled", codes: [0] }],
  ])("%s", async (name, { state, codes, orElse = [] }) => {
    const outcome = await node.call.attack(name);
    const { states, events, addMs, endedMs } = outcome;
    if (process.env.ATTACK_TIMES !== undefined) console.log(name, { states, quietMs, addMs, endedMs });
    expect(outcome.victim).toEqual({ isMended: true, isCaptured: true, state: "enrolled" });
    expect(outcome.annotation).toBe("enabled");
    expect(outcome.hasControls).toBe(false);
    expect(addMs).toBeLessThan(addLimitMs);
    // its own look comes a moment after the attack has begun
    expect(states.filter((each) => each !== "enrolled" && each !== state && !orElse.includes(each))).toEqual(
      [],
    );
    expect(states).toContain(state);
    expect(codes).toContain(outcome.verifyCode);
    if (orElse.length > 0 || state === "enrolled") return;
    expect(outcome.transitions.at(-1)).toBe(`${state} -> enrolled`);
    const told = events.filter((each) => !each.startsWith("AmbientRepaired: "));
    if (state === "failed") expect(told).toEqual([expect.stringMatching(/^AmbientNotCaptured: /)]);
    else {
      expect(told).toEqual([
        expect.stringMatching(/^AmbientCannotVerify: Cannot verify .*: .*looked at again$/),
      ]);
      expect(outcome.log).toContain("a pod's rules can be verified again");
    }
  });

  test("an ADD whose pod cannot be verified fails, and says why", async () => {
    expect(await node.call.addOfUnverifiable()).toMatch(
      /Cannot capture pod "mesh\/spoilt" for the ambient mesh: .*its chain OUTPUT does not hang/,
    );
  });
});
