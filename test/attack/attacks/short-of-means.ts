// SPDX-License-Identifier: Apache-2.0
// Attacks on an agent that has little: of memory, and of programs that come back.
import { chmod, copyFile, realpath, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { Attack, AttackGroup } from "../attack.ts";
import { loopProbeEnv } from "../loop-reading.ts";
import type { Scene } from "../scene.ts";
import { answersOfApiServer } from "./answers-of-api-server.ts";
import { lockByPod } from "./rules-of-pods.ts";
import { wordsOfPods } from "./words-of-pods.ts";

/** The same attack in another group. */
function again(attacks: readonly Attack[], name: string, suffix: string): Attack {
  const found = attacks.find((attack) => attack.name === name);
  if (found === undefined) throw new Error(`There is no attack "${name}"`);
  return { ...found, name: `${name}-${suffix}` };
}

/** What the process may have of memory of its own, and its heap of objects; both bytes. */
const limits = { dataMb: 800, heapMb: 64 };

export const littleMemory: AttackGroup = {
  name: "little-memory",
  env: { NODE_OPTIONS: `${loopProbeEnv.NODE_OPTIONS} --max-old-space-size=${limits.heapMb}` },
  wrapper: ["prlimit", `--data=${limits.dataMb << 20}`, "--"],
  attacks: [
    again(wordsOfPods, "annotation-flood", `with-${limits.heapMb}-mb`),
    again(answersOfApiServer.attacks, "200-mb", `with-${limits.heapMb}-mb`),
    again(wordsOfPods, "event-flood", `with-${limits.heapMb}-mb`),
  ],
};

/** While it is there, the program that writes rules in that namespace neither ends nor heeds SIGTERM. */
const stubbornFor = "/run/node/stubborn-for";
const stubborn = (real: string): string => `#!/bin/sh
name=$(basename "$0")
case $name in
*legacy-restore)
  if [ -e ${stubbornFor} ] && [ "$(readlink /proc/self/ns/net)" = "$(cat ${stubbornFor})" ]; then
    trap '' TERM INT HUP
    exec 9<>/run/node/stubborn.fifo
    read -r _ <&9
  fi ;;
esac
exec ${real} "$name" "$@"
`;

async function stubbornProcesses(): Promise<number> {
  const { stdout } = await run(["pgrep", "-f", "legacy-restore"], { mayFail: true });
  return stdout.split("\n").filter((line) => line !== "").length;
}

async function isEntered(scene: Scene): Promise<void> {
  await scene.mesh.ztunnel.waitForStats(({ ready }) => ready, 10_000);
}

export const stubbornTool: AttackGroup = {
  name: "legacy-programs",
  env: { FORCE_IPTABLES_BINARY: "legacy" },
  prepare: async () => {
    const real = await realpath("/usr/sbin/iptables-legacy-restore");
    const copy = `/run/node/${basename(real)}`;
    await copyFile(real, copy);
    await chmod(copy, 0o755);
    await run(["mkfifo", "/run/node/stubborn.fifo"], { mayFail: true });
    await writeFile("/run/node/stubborn-program", stubborn(copy), { mode: 0o755 });
    // in this node's mount namespace alone
    await run(["mount", "--bind", "/run/node/stubborn-program", real]);
  },
  finish: async () => {
    await run(["umount", "--lazy", await realpath("/usr/sbin/iptables-legacy-restore")]);
  },
  attacks: [
    lockByPod,
    {
      name: "stubborn-program",
      what: "the program that writes a pod's rules hangs and ignores SIGTERM, for 6 pods",
      bound: "they are captured 40 s after its end, no program is left",
      run: async (scene, atHeight) => {
        const pods = [];
        for (let index = 0; index < 6; index++)
          pods.push(await scene.evilPod({ labels: { "istio.io/dataplane-mode": "none" } }));
        const [first] = pods;
        if (first === undefined) throw new Error("there is no pod");
        try {
          await writeFile(stubbornFor, `net:[${await first.netnsInode()}]`);
          for (const pod of pods) scene.mesh.kubelet.labelPod(pod, { "istio.io/dataplane-mode": null });
          await waitFor("the program to hang", async () => (await stubbornProcesses()) > 0, {
            timeoutMs: 10_000,
          });
          await atHeight();
          for (const pod of pods.slice(1)) await scene.untilState(pod, "enrolled", 20_000);
        } finally {
          await rm(stubbornFor, { force: true });
        }
        const startMs = performance.now();
        await scene.untilState(first, "enrolled", 40_000);
        const seconds = (performance.now() - startMs) / 1000;
        await isEntered(scene);
        const left = await waitFor("the program to be gone", async () => (await stubbornProcesses()) === 0, {
          timeoutMs: 5_000,
        }).catch(() => false);
        await scene.remove(...pods);
        return {
          measured: `the others at once, itself after ${seconds.toFixed(1)} s, ${left ? "no program left" : "A PROGRAM IS LEFT"}`,
          ok: left && seconds < 40,
        };
      },
    },
  ],
};
