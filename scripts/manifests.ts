// SPDX-License-Identifier: Apache-2.0
// Writes deploy/manifests from deploy/chart with Helm: `node scripts/manifests.ts`, or `--check` to compare only. Without Go there is
// no Helm: then the record beside the manifests says whether they, or the chart, were changed since they were made.
import { createHash } from "node:crypto";
import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Chart, findHelm } from "./helm.ts";

const root = join(import.meta.dirname, "..");

/** Kubernetes 1.30 has a field for AppArmor; those before know an annotation and refuse the field. */
export const plainManifests = [
  { fileName: "ambient-cni.yaml", kubeVersion: "1.30.0", use: "Kubernetes 1.30 and later" },
  { fileName: "ambient-cni-before-1.30.yaml", kubeVersion: "1.29.0", use: "Kubernetes before 1.30" },
] as const;

/** What they were made from and what came of it, in the form of `sha256sum`: `sha256sum -c` at the project's root checks it, too. */
export const recordPath = "deploy/manifests/made-from.sha256";

/** Text of one of the plain manifests: the chart with its defaults, for the namespace istio-system. */
export function plainManifest(helm: string, { kubeVersion, use }: (typeof plainManifests)[number]): string {
  const chart = new Chart(helm, join(root, "deploy/chart"));
  const manifests = chart.render({ releaseName: "ambient-cni", namespace: "istio-system", kubeVersion });
  const head = [
    "# SPDX-License-Identifier: Apache-2.0",
    `# ambient-cni for ${use}: kubectl apply --server-side -f FILE`,
    "# Made from deploy/chart by scripts/manifests.ts; change the chart instead of this file.",
  ];
  return `${[head.join("\n"), ...manifests.map(({ text }) => text)].join("\n---\n")}\n`;
}

/** The record of a project's folder as it is now. */
export function currentRecord(folder: string): string {
  const paths = globSync(["deploy/chart/**", "deploy/chart/.helmignore", "deploy/manifests/*.yaml"], {
    cwd: folder,
    withFileTypes: true,
  })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1));
  return paths
    .toSorted()
    .map((path) => {
      const hash = createHash("sha256")
        .update(readFileSync(join(folder, path)))
        .digest("hex");
      return `${hash}  ${path}\n`;
    })
    .join("");
}

async function main(check: boolean): Promise<number> {
  const helm = await findHelm();
  if ("lacks" in helm) {
    process.stderr.write(`${helm.lacks}\n`);
    if (!check) return 1;
  }
  const stale: string[] = [];
  const compare = (path: string, text: string): void => {
    const file = join(root, path);
    if (existsSync(file) && readFileSync(file, "utf8") === text) return;
    stale.push(path);
    if (!check) writeFileSync(file, text);
  };
  if ("program" in helm)
    for (const manifest of plainManifests)
      compare(join("deploy/manifests", manifest.fileName), plainManifest(helm.program, manifest));
  compare(recordPath, currentRecord(root));
  for (const path of stale) process.stdout.write(`${check ? "stale" : "written"}: ${path}\n`);
  return check && stale.length > 0 ? 1 : 0;
}

if (import.meta.main) process.exitCode = await main(process.argv.includes("--check"));
