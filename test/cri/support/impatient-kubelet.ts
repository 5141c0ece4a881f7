// SPDX-License-Identifier: Apache-2.0
// A kubelet that never gives up on a pod and never pauses: whatever time passes before a pod runs is not the kubelet's.
import type { CriError } from "./cri-client.ts";
import type { CriNode, CriPod, PodSpec, RunOptions } from "./cri-node.ts";

/** One RunPodSandbox. */
export interface Attempt {
  readonly pod: string;
  readonly ms: number;
  /** Why it failed; undefined when the pod runs. The names of pod and sandbox are taken out. */
  readonly error: string | undefined;
  /** gRPC status of the failure. */
  readonly code: string | undefined;
}

/** Runs a pod until it runs, or until a number of attempts has failed. @throws the last failure */
export async function runUntilItRuns(
  node: CriNode,
  spec: PodSpec,
  options: RunOptions & { readonly attempts: Attempt[]; readonly maxAttempts?: number },
): Promise<CriPod> {
  const { attempts, maxAttempts = 50, ...run } = options;
  for (let count = 1; ; count += 1) {
    const began = performance.now();
    const note = (error?: CriError): void => {
      const text = error?.message.replace(/[0-9a-f]{64}/g, "SANDBOX").replace(/pod-\d+/g, "POD");
      attempts.push({ pod: spec.name, ms: performance.now() - began, error: text, code: error?.code });
    };
    try {
      const pod = await node.runPod(spec, run);
      note();
      return pod;
    } catch (error) {
      note(error as CriError);
      if (count >= maxAttempts) throw error;
    }
  }
}
