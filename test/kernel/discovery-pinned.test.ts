// SPDX-License-Identifier: Apache-2.0
// Finding sandboxes without a process: CRI-O has no pause process, so a pod that crashes again and again has none for a while.
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";

type Inside = typeof import("./discovery-pinned.inside.ts");
let node: NodeModule<Inside>;

beforeAll(async () => {
  node = await NodeModule.start<Inside>(join(import.meta.dirname, "discovery-pinned.inside.ts"));
});
afterAll(async () => {
  await node?.stop();
});
afterEach(async () => {
  expect(await node.call.openNamespaces(), "a namespace was left open").toEqual({ counted: 0, held: 0 });
});

const pinned = (name: string) => ({ name, source: "pinned", containerId: "", warned: 0 });
const added = (name: string) => ({ name, source: "add", containerId: "c1", warned: 0 });
const nothing = { name: undefined, source: undefined, containerId: undefined, warned: 0 };

describe("finder", () => {
  test("finds a sandbox without any process by its addresses, and refuses where they leave a doubt", async () => {
    expect(await node.call.withoutProcess()).toEqual({
      byAddress: pinned("a"),
      byIpv6: pinned("a"),
      byNone: nothing,
      withoutAddress: nothing,
      ofOneThatHasFinished: nothing,
      ofAnotherPod: nothing,
      twoWithIt: { ...nothing, warned: 1 },
      oneOfTwoHasAll: pinned("twin"),
      otherOfTwoIsOwned: pinned("b"),
    });
  });

  test("takes what ADD told as long as it holds, and looks on where it does not", async () => {
    expect(await node.call.told()).toEqual({
      asTold: added("a"),
      asToldOfOneThatHasFinished: added("a"),
      withoutAddressYet: added("a"),
      byTheAddressOfItsTimeAlone: added("a"),
      withoutItsAddressNow: added("b"),
      withoutItsAddressInItsStatus: added("b"),
      anothersNowWithoutAddress: { ...nothing, warned: 1 },
      refusedOnceMore: nothing,
      byTheAddressOfItsTime: added("a"),
      byTheAddressOfItsStatus: added("a"),
      anothersNow: { ...pinned("a"), warned: 1 },
      gone: pinned("a"),
      anotherUnderItsPath: pinned("a"),
      ownedByAnother: nothing,
      theHosts: nothing,
    });
  });

  test("leaves a handle that it gave alone when another search of the same pass fails", async () => {
    expect(await node.call.besideFailures()).toEqual({
      name: "b",
      isOpen: true,
      failures: ["no descriptor is left"],
    });
  });

  test("takes the word of an ADD for standing only while its path leads to its namespace", async () => {
    expect(await node.call.standing()).toEqual({
      asTold: true,
      anotherUnderItsPath: false,
      numberOfAnother: false,
      noFolder: false,
    });
  });

  test("takes no namespace with another pod's processes, nor the host's, and no other file holds it up", async () => {
    const { ownProcess, ...others } = await node.call.besides();
    expect(ownProcess).toMatchObject({ name: "own", source: "proc", warned: 0 });
    expect(others).toEqual({ anotherPodsProcess: nothing, hosts: nothing });
  });

  test("looks for 50 pods among 100 namespaces without holding anybody up", async () => {
    const costs = await node.call.crowd(100);
    expect(costs.found).toBe(50);
    expect(costs.longestDelayMs).toBeLessThan(50);
    expect(costs.ms).toBeLessThan(2_000);
    console.info(
      `50 pods among 100 pinned namespaces: ${costs.ms.toFixed(0)} ms, longest delay ${costs.longestDelayMs.toFixed(1)} ms`,
    );
  });
});
