// SPDX-License-Identifier: Apache-2.0
// What `ambient-cni doctor` says of this machine: in the demo's node, with its agent, chain and two pods. A line for each finding,
// which begins with "right", "WRONG", or "known" for what is true of the demo and not of the machine.
import type { Finding } from "../../src/diagnose/finding.ts";
import { modeLabel, Scene } from "../demo/scene.ts";
import { AGENT_BUNDLE } from "../support/node/agent-process.ts";
import { commandEnv } from "../support/node/command-env.ts";
import { followOuter, insideNode } from "../support/node/inside.ts";
import { cleanEnv, run } from "../support/node/run.ts";
import { runInNode } from "../support/node/run-in-node.ts";

/** Settings of the demo's agent. */
const native = process.argv.includes("--native") ? { NATIVE_NFTABLES: "true" } : {};
const folders = { MOUNTED_CNI_NET_DIR: "/run/node/cni/net.d", MOUNTED_CNI_BIN_DIR: "/run/node/cni/bin" };

/** What is true of the demo and not of the machine: questions that its API server has no answer for, and pods that run as root. */
const ofTheDemo = ["api", "network-policies", "outbound-bypass"];

const attempts = 3;

async function examine(): Promise<number> {
  followOuter();
  const scene = await Scene.begin(native);
  const pods = [scene.client.pod, scene.server.pod];
  scene.mesh.kubelet.labelNamespace("shop", { [modeLabel]: "ambient" });
  await scene.untilHeld(pods);
  for (const pod of pods) await scene.untilStatus(pod, "enabled");
  const env = cleanEnv({ ...commandEnv, ...folders, ...native, INSTALL_CNI_PLUGIN: "true" });
  const isRight = ({ id, level }: Finding): boolean => level === "ok" || ofTheDemo.includes(id);
  let findings: readonly Finding[] = [];
  // a check that ended without an answer, because the machine is slow, says so; that is no verdict
  for (let asked = 0; asked < attempts && (asked === 0 || !findings.every(isRight)); asked++) {
    const { stdout, stderr } = await run([process.execPath, AGENT_BUNDLE, "doctor", "--json"], {
      env,
      timeoutMs: 30_000,
      mayFail: true,
    });
    process.stderr.write(stderr);
    ({ findings } = JSON.parse(stdout) as { findings: readonly Finding[] });
  }
  for (const finding of findings) {
    const { level, id, what } = finding;
    const verdict = level === "ok" ? "right" : isRight(finding) ? "known" : "WRONG";
    process.stdout.write(`${verdict} ${level} ${id}: ${what}\n`);
  }
  return findings.every(isRight) ? 0 : 1;
}

process.exitCode =
  insideNode() === undefined
    ? await runInNode(import.meta.filename, process.argv.slice(2), { tools: ["nft"] })
    : await examine();
if (insideNode() !== undefined) process.exit();
