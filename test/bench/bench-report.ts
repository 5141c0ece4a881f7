// SPDX-License-Identifier: Apache-2.0
// The table of the benchmarks: what was measured, what it may cost, and why.

/** Every number of the benchmark, by the name it has in the JSON. */
export interface Measurements {
  launcher_ms_p50: number;
  true_ms_p50: number;
  add_mesh_ms_p50: number;
  add_mesh_ms_p99: number;
  add_sidecar_ms_p50: number;
  add_sidecar_to_mesh: number;
  add_other_ms_p50: number;
  chain_plain_ms_p50: number;
  chain_mesh_ms_p50: number;
  chain_other_ms_p50: number;
  rules_replay_ms_p50: number;
  rules_native_ms_p50: number;
  rules_sidecar_ms_p50: number;
  check_ms_p50: number;
  full_check_ms_p50: number;
  rules_processes: number;
  rules_floor_ms_p50: number;
  iptables_c25_ms_p50: number;
  single_pod_ms: number;
  first_pod_ms: number;
  label_110_s: number;
  restart_110_s: number;
  restart_110_rule_writes: number;
  idle_110_cpu_s_per_min: number;
  idle_cpu_s_per_min: number;
  idle_floor_cpu_s_per_min: number;
  drift_heal_ms_p50: number;
  drift_heal_ms_p99: number;
  pss_60_mb: number;
  anon_60_mb: number;
  rss_0_mb: number;
  rss_110_mb: number;
  toggle_requests: number;
  toggle_failed: number;
  toggle_hung: number;
}

interface Row {
  readonly key: keyof Measurements;
  readonly what: string;
  /** The most it may be; rows without one are there to compare with. */
  readonly budget?: number;
}

/** Budgets are for two quiet cores: above what is measured there, below what the fault cost that each was made for. */
const rows: readonly Row[] = [
  { key: "launcher_ms_p50", what: "launcher, whole process (VERSION)", budget: 3 },
  { key: "true_ms_p50", what: "  /bin/true, started the same way" },
  { key: "add_mesh_ms_p50", what: "our part of ADD, pod in the mesh, p50", budget: 9 },
  { key: "add_mesh_ms_p99", what: "our part of ADD, pod in the mesh, p99", budget: 60 },
  { key: "add_sidecar_ms_p50", what: "our part of ADD, pod with a sidecar, p50", budget: 9 },
  { key: "add_sidecar_to_mesh", what: "  the same, over that of a pod in the mesh", budget: 1 },
  { key: "add_other_ms_p50", what: "our part of ADD, pod outside the mesh", budget: 10 },
  { key: "chain_plain_ms_p50", what: "  RunPodSandbox without us" },
  { key: "chain_mesh_ms_p50", what: "  RunPodSandbox with us, in the mesh" },
  { key: "chain_other_ms_p50", what: "  RunPodSandbox with us, outside" },
  { key: "rules_replay_ms_p50", what: "rules and routes of a fresh pod, verified", budget: 1.5 },
  { key: "rules_native_ms_p50", what: "  the same in native nftables", budget: 1.5 },
  { key: "rules_sidecar_ms_p50", what: "  those of a sidecar, DNS, both families" },
  { key: "check_ms_p50", what: "one look at a pod that is right and untouched", budget: 0.5 },
  { key: "full_check_ms_p50", what: "the same with all of it read again" },
  { key: "rules_processes", what: "  processes started for them", budget: 0 },
  { key: "rules_floor_ms_p50", what: "  nsenter with two parallel iptables-restore" },
  { key: "iptables_c25_ms_p50", what: "  25 iptables -C one after the other" },
  { key: "single_pod_ms", what: "one running pod captured after its label, ms" },
  { key: "first_pod_ms", what: "the first of 110 after one label, ms", budget: 25 },
  { key: "label_110_s", what: "110 running pods captured after one label, s", budget: 0.7 },
  { key: "restart_110_s", what: "agent restarted with 110 pods, s" },
  { key: "restart_110_rule_writes", what: "rule writes of that restart", budget: 0 },
  { key: "idle_110_cpu_s_per_min", what: "agent's processor time a minute, 110 pods, idle, s" },
  { key: "idle_cpu_s_per_min", what: "the same with 60 pods, long after its start, s", budget: 0.03 },
  { key: "idle_floor_cpu_s_per_min", what: "  a Node that only listens to these pods, s" },
  { key: "drift_heal_ms_p50", what: "rules that somebody took away are back, p50" },
  { key: "drift_heal_ms_p99", what: "rules that somebody took away are back, p99", budget: 1_000 },
  { key: "pss_60_mb", what: "agent's memory with 60 pods long after, MB", budget: 85 },
  { key: "anon_60_mb", what: "  anonymous of it, MB", budget: 35 },
  { key: "rss_0_mb", what: "agent's resident memory, no pod, MB" },
  { key: "rss_110_mb", what: "agent's resident memory, 110 pods, MB", budget: 85 },
  { key: "toggle_requests", what: "requests while pods leave and enter the mesh" },
  { key: "toggle_failed", what: "  failed of these", budget: 0 },
  { key: "toggle_hung", what: "  hung of these", budget: 0 },
];

/** Names of the numbers that are over their budget. */
export function overBudget(measured: Measurements): string[] {
  return rows
    .filter((row) => row.budget !== undefined && measured[row.key] > row.budget)
    .map((row) => row.key);
}

/** The table as text. */
export function renderTable(measured: Measurements): string {
  const over = overBudget(measured);
  const lines = rows.map(({ key, what, budget }) => {
    const verdict = budget === undefined ? "" : over.includes(key) ? `OVER ${budget}` : `within ${budget}`;
    return `  ${what.padEnd(46)}${String(round(measured[key])).padStart(9)}  ${verdict}`.trimEnd();
  });
  return lines.join("\n");
}

/** The numbers as one JSON object, in the order of the table. */
export function renderJson(measured: Measurements): string {
  const numbers = rows.map(({ key }) => [key, round(measured[key])] as const);
  return JSON.stringify({ ...Object.fromEntries(numbers), over_budget: overBudget(measured) });
}

/** To two decimals; what is smaller than a tenth to three. */
function round(value: number): number {
  const factor = Math.abs(value) < 0.1 ? 1_000 : 100;
  return Math.round(value * factor) / factor;
}
