// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { type Fight, fightAt, fightRemedy, noFight, recordRewrite } from "../../src/install/fight.ts";

it("more than five rewrites in a minute are a fight: slowed down, reported once, over when it is quiet", () => {
  let now = 0;
  let fight: Fight = noFight;
  const record = (): [number, boolean] => {
    now += 1000;
    const verdict = recordRewrite(fight, now);
    fight = verdict.fight;
    return [verdict.pauseMs, verdict.begins];
  };
  expect(Array.from({ length: 5 }, record)).toEqual(Array.from({ length: 5 }, () => [0, false]));
  expect(fightAt(fight, now).isOn).toBe(false);
  expect(Array.from({ length: 7 }, record)).toEqual([
    [200, true],
    [400, false],
    [800, false],
    [1600, false],
    [3200, false],
    [5000, false],
    [5000, false],
  ]);
  expect([fight.isOn, fight.rewrites, fight.fights]).toEqual([true, 12, 1]);
  now += 61_000;
  expect(fightAt(fight, now).isOn).toBe(false);
  expect(record()).toEqual([0, false]);
  expect(Array.from({ length: 5 }, record).at(-1)).toEqual([200, true]);
  expect(fight.fights).toBe(2);
});

it("one rewrite every 12 seconds is no fight", () => {
  let now = 0;
  let fight: Fight = noFight;
  for (let count = 0; count < 20; count++, now += 12_001) {
    const verdict = recordRewrite(fight, now);
    expect(verdict.begins).toBe(false);
    fight = verdict.fight;
  }
});

it.each([
  [["istio-cni"], "uninstall istio-cni"],
  [["cilium-cni"], "cni.exclusive=false"],
  [["portmap", "calico"], "Calico"],
  [["multus-shim"], "Multus"],
  [["flannel", "portmap"], "ISTIO_OWNED_CNI_CONFIG=true"],
])("the remedy for %j speaks of %s", (types, expected) => {
  expect(fightRemedy(types)).toContain(expected);
});
