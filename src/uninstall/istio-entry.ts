// SPDX-License-Identifier: Apache-2.0
// Our entry leaves a chain to istio-cni's.
import { setTimeout as delay } from "node:timers/promises";
import { parseFolder } from "../conflist/conf-folder.ts";
import { ownersIn } from "../conflist/standalone-plan.ts";
import { readFolder } from "../install/conf-dir.ts";

/** It adds its entry about once a second where somebody takes it away, as an agent of ours may just have done. */
const istioEntryMs = 2_500;

/** Waits for istio-cni's entry, where ours is in a chain: one that calls nobody would start pods outside their mesh. */
export async function untilIstioIsIn({
  hostRoot,
  netDir,
}: {
  readonly hostRoot: string;
  readonly netDir: string;
}): Promise<void> {
  const until = performance.now() + istioEntryMs;
  for (;;) {
    const { files } = await readFolder(netDir, { hostRoot }).catch(() => ({
      files: new Map<string, string>(),
    }));
    const owners = parseFolder(files).confs.map(ownersIn);
    const isIn = owners.some(({ istioCni }) => istioCni);
    const isOurs = owners.some(({ ours }) => ours);
    if (isIn || !isOurs || performance.now() >= until) return;
    await delay(100);
  }
}
