// SPDX-License-Identifier: Apache-2.0
// What settings.test.ts does inside a node: pods come and stay while the agent's settings are wrong.
import { request } from "node:http";
import { claimCaptured, claimUntouched } from "../support/node/capture-state.ts";
import { MeshNode } from "../support/node/mesh-node.ts";
import type { Pod } from "../support/node/pod.ts";
import { waitFor } from "../support/node/wait-for.ts";
import { allowWithoutPrograms } from "../support/node/without-programs.ts";

const mesh = await MeshNode.start({ plugin: { agentWaitSeconds: 5 } });
mesh.kubelet.createNamespace("mesh", { "istio.io/dataplane-mode": "ambient" });
mesh.kubelet.createNamespace("plain");
await allowWithoutPrograms();
await mesh.startAgent();
await mesh.startZtunnel();
await mesh.ztunnel.waitForReady();
const before = await startPod("mesh", "before");
await claimCaptured(before);

function startPod(namespace: string, name: string): Promise<Pod> {
  return mesh.kubelet.runPod({ namespace, name, labels: {} });
}

/** What came of wrong settings. */
export interface Effects {
  /** What /readyz says in the end. */
  readonly ready: string;
  /** How new pods start, by namespace, or what the runtime is told. */
  readonly starts: Readonly<Record<string, string>>;
  /** How the pod from before is found. */
  readonly before: "captured";
  /** The exit code of a CNI STATUS; 0: the runtime may call the node's network ready. */
  readonly status: string;
}

let rounds = 0;

/** Starts what follows it where iptables-legacy cannot be run. */
const withoutLegacy: readonly string[] = [
  "unshare",
  "--mount",
  "--propagation=slave",
  "sh",
  "-c",
  'mount --bind /dev/null "$(readlink -f "$(command -v iptables-legacy)")" || exit 9; exec "$@"',
  "sh",
];

/** Replaces the agent by one with these settings, and waits for its readiness to say so. */
export async function withSettings(
  env: Record<string, string>,
  { said, hasLegacy }: { said: string; hasLegacy: boolean },
): Promise<Effects> {
  await mesh.agent.stop();
  // it will not be ready: what is waited for below says more
  mesh.startAgent(env, { wrapper: hasLegacy ? [] : withoutLegacy }).catch(() => {});
  let ready = "";
  await waitFor(
    `readiness to say ${said}`,
    async () => {
      ready = await fetch("http://127.0.0.1:8000/readyz").then(
        (response) => response.text(),
        (error: Error) => error.message,
      );
      return new RegExp(said).test(ready);
    },
    { timeoutMs: 15_000, intervalMs: 20 },
  );
  rounds++;
  const starts: Record<string, string> = {};
  for (const namespace of ["mesh", "plain"]) {
    const pod = await startPod(namespace, `round-${rounds}`).catch((error: Error) => error.message);
    if (typeof pod === "string") {
      starts[namespace] = pod;
      continue;
    }
    const isCaptured = await claimCaptured(pod).then(
      () => true,
      () => false,
    );
    if (!isCaptured) await claimUntouched(pod);
    starts[namespace] = isCaptured ? "captured" : "untouched";
    await mesh.kubelet.deletePod(pod);
  }
  await claimCaptured(before);
  return { ready: ready.trim(), starts, before: "captured", status: await askStatus() };
}

function askStatus(): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({
      socketPath: "/var/run/istio-cni/pluginevent.sock",
      method: "POST",
      path: "/cni",
      headers: { "CNI-Command": "STATUS" },
    });
    asked.on("response", (response) => {
      response.resume();
      resolve(String(response.headers["cni-exit"]));
    });
    asked.on("error", reject);
    asked.end(JSON.stringify({ cniVersion: "1.1.0", name: "x", type: "ambient-cni" }));
  });
}
