// SPDX-License-Identifier: Apache-2.0
// Every parser of others' bytes in the agent, by whose they are.
import { cniTargets } from "./cni-targets.ts";
import type { FuzzTarget } from "./fuzz-target.ts";
import { kernelTargets } from "./kernel-targets.ts";
import { kubeTargets } from "./kube-targets.ts";
import { nodeTargets } from "./node-targets.ts";
import { runtimeTargets } from "./runtime-targets.ts";

export const targets: readonly FuzzTarget[] = [
  ...cniTargets,
  ...kubeTargets,
  ...kernelTargets,
  ...nodeTargets,
  ...runtimeTargets,
];
