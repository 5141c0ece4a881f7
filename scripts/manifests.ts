// SPDX-License-Identifier: Apache-2.0
// Writes deploy/manifests from deploy/chart: `node scripts/manifests.ts`, or `--check` to compare only.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Chart } from "./manifest-chart.ts";

const root = join(import.meta.dirname, "..");

/** Kubernetes 1.30 has a field for AppArmor; those before know an annotation and refuse the field. */
export const plainManifests = [
  { fileName: "ambient-cni.yaml", kubeVersion: "1.30.0", use: "Kubernetes 1.30 and later" },
  { fileName: "ambient-cni-before-1.30.yaml", kubeVersion: "1.29.0", use: "Kubernetes before 1.30" },
] as const;

/** Text of one of the plain manifests: the chart with its defaults, for the namespace istio-system. */
export function plainManifest({ kubeVersion, use }: (typeof plainManifests)[number]): string {
  const chart = new Chart(join(root, "deploy/chart"));
  const manifests = chart.render({ releaseName: "ambient-cni", namespace: "istio-system", kubeVersion });
  const head = [
    "# SPDX-License-Identifier: Apache-2.0",
    `# ambient-cni for ${use}: kubectl apply --server-side -f FILE`,
    "# Made from deploy/chart by scripts/manifests.ts; change the chart instead of this file.",
  ];
  return `${[head.join("\n"), ...manifests.map(({ text }) => text)].join("\n---\n")}\n`;
}

function main(check: boolean): number {
  let stale = 0;
  for (const manifest of plainManifests) {
    const path = join(root, "deploy/manifests", manifest.fileName);
    const text = plainManifest(manifest);
    if (existsSync(path) && readFileSync(path, "utf8") === text) continue;
    stale++;
    if (!check) writeFileSync(path, text);
    process.stdout.write(`${check ? "stale" : "written"}: deploy/manifests/${manifest.fileName}\n`);
  }
  return check && stale > 0 ? 1 : 0;
}

if (import.meta.main) process.exitCode = main(process.argv.includes("--check"));
