// SPDX-License-Identifier: Apache-2.0
// The arithmetic and the words of the benchmarks: numbers nobody would notice to be wrong.
import { expect, test } from "vitest";
import { type Measurements, overBudget, renderJson, renderTable } from "../bench/bench-report.ts";
import { forEachLimited, p50, percentile } from "../bench/samples.ts";

test("percentiles are samples by nearest rank, in whatever order they come", () => {
  expect(p50([3])).toBe(3);
  expect(p50([9, 1, 5])).toBe(5);
  expect(p50([4, 3, 2, 1])).toBe(2);
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(percentile(hundred, 99)).toBe(99);
  expect(percentile(hundred, 100)).toBe(100);
  expect(percentile(hundred, 0)).toBe(1);
  expect(() => p50([])).toThrow("no samples");
});

test("work is done once for each item and no more than the limit at a time", async () => {
  let running = 0;
  let most = 0;
  const done: number[] = [];
  await forEachLimited([1, 2, 3, 4, 5], 2, async (item) => {
    running += 1;
    most = Math.max(most, running);
    await Promise.resolve();
    running -= 1;
    done.push(item);
  });
  expect(most).toBe(2);
  expect(done.sort()).toEqual([1, 2, 3, 4, 5]);
});

const good: Measurements = {
  launcher_ms_p50: 1.9,
  true_ms_p50: 1.5,
  add_mesh_ms_p50: 8,
  add_mesh_ms_p99: 40,
  add_sidecar_ms_p50: 8,
  add_sidecar_to_mesh: 1,
  add_other_ms_p50: 4,
  chain_plain_ms_p50: 40,
  chain_mesh_ms_p50: 60,
  chain_other_ms_p50: 45,
  rules_replay_ms_p50: 1.118,
  rules_native_ms_p50: 0.9,
  full_check_ms_p50: 1.6,
  rules_sidecar_ms_p50: 1,
  check_ms_p50: 0.4,
  rules_processes: 0,
  rules_floor_ms_p50: 6,
  iptables_c25_ms_p50: 70,
  single_pod_ms: 40,
  first_pod_ms: 14,
  label_110_s: 0.6,
  restart_110_s: 1,
  restart_110_rule_writes: 0,
  idle_110_cpu_s_per_min: 0.2,
  idle_cpu_s_per_min: 0.0284,
  idle_floor_cpu_s_per_min: 0,
  drift_heal_ms_p50: 100,
  drift_heal_ms_p99: 300,
  pss_60_mb: 80,
  anon_60_mb: 33,
  rss_0_mb: 70,
  rss_110_mb: 80,
  toggle_requests: 5000,
  toggle_failed: 0,
  toggle_hung: 0,
};

test("numbers over their budget are named, a single rule write or lost request included", () => {
  expect(overBudget(good)).toEqual([]);
  const bad = {
    ...good,
    restart_110_rule_writes: 1,
    label_110_s: 3.01,
    rss_0_mb: 900,
    toggle_failed: 1,
    first_pod_ms: 30,
  };
  expect(overBudget(bad)).toEqual([
    "first_pod_ms",
    "label_110_s",
    "restart_110_rule_writes",
    "toggle_failed",
  ]);
  expect(renderTable(bad)).toMatch(/rule writes of that restart +1 {2}OVER 0$/m);
});

test("the JSON has every number under its own name, with two decimals, or three where it is small", () => {
  const json = JSON.parse(renderJson(good)) as Record<string, unknown>;
  expect(Object.keys(json).sort()).toEqual([...Object.keys(good), "over_budget"].sort());
  expect(json.rules_replay_ms_p50).toBe(1.12);
  expect(json.idle_cpu_s_per_min).toBe(0.028);
});
