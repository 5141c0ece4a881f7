// SPDX-License-Identifier: Apache-2.0
// Attacks by processes of a pod: their number, their names, and cgroups that say that they are another pod's.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Kubelet } from "../../support/node/kubelet.ts";
import type { Pod } from "../../support/node/pod.ts";
import { cleanEnv } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { Attack } from "../attack.ts";
import { endGroup, PLAIN, type Scene } from "../scene.ts";

const ambient = { "istio.io/dataplane-mode": "ambient" };

/** Forks children that call themselves as the node's programs do. */
const crowd = `
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
names = [b"ztunnel", b"kubelet", b"ambient-cni", b"x\\n\\x1b[2J"]
for i in range(int(sys.argv[1])):
    if os.fork() == 0:
        libc.prctl(15, names[i % 4], 0, 0, 0)
        time.sleep(600)
        os._exit(0)
print("there", flush=True)
time.sleep(600)
`;

async function untold(scene: Scene, name: string, uid?: string): Promise<{ pod: Pod; kubelet: Kubelet }> {
  const { api, plainPods } = scene.mesh;
  const kubelet = new Kubelet({ api, runtime: plainPods, nodeName: "node-1" });
  return {
    pod: await kubelet.runPod({ namespace: PLAIN, name, ...(uid === undefined ? {} : { uid }) }),
    kubelet,
  };
}

export const processesOfPods: readonly Attack[] = [
  {
    name: "process-crowd",
    what: "1,500 processes in a pod named as the node's programs; a pod of which no ADD told is to be found",
    bound: "found and captured within 10 s",
    run: async (scene, atHeight) => {
      const evil = await scene.mesh.plainPods.runPodSandbox({ namespace: PLAIN, name: scene.fresh("crowd") });
      const { pod, kubelet } = await untold(scene, scene.fresh("untold"));
      const child = scene.inPod(evil, ["python3", "-c", crowd, "1500"]);
      try {
        let out = "";
        child.stdout?.on("data", (part) => {
          out += String(part);
        });
        await writeFile(join(evil.cgroup, evil.sandbox.id, "cgroup.procs"), String(child.pid));
        await waitFor("the crowd", () => out.includes("there"), { timeoutMs: 20_000 });
        const startMs = performance.now();
        kubelet.labelPod(pod, ambient);
        await Promise.all([atHeight(), scene.untilState(pod, "enrolled")]);
        const ms = performance.now() - startMs;
        return { measured: `captured within ${Math.round(ms)} ms`, ok: ms < 10_000 };
      } finally {
        await endGroup(child);
        await kubelet.deletePod(pod);
        await evil.delete();
      }
    },
  },
  {
    name: "cgroup-of-another",
    what: "an older process says by its cgroup's name and its address that it is another tenant's pod",
    bound: "ztunnel gets the other's namespace, and rules are there alone",
    run: async (scene, atHeight) => {
      const uid = crypto.randomUUID();
      const { pod: evil, kubelet } = await untold(scene, scene.fresh("impostor"));
      const cgroup = join(
        evil.cgroup,
        randomBytes(32).toString("hex"),
        "x",
        `pod${uid}`,
        randomBytes(32).toString("hex"),
      );
      await mkdir(cgroup, { recursive: true });
      const old = spawn("nsenter", [`--net=${evil.netns}`, "sleep", "infinity"], {
        env: cleanEnv(),
        stdio: "ignore",
        detached: true,
      });
      let victim: Pod | undefined;
      try {
        await writeFile(join(cgroup, "cgroup.procs"), String(old.pid));
        // both are of the same age to the agent's eyes: neither was told by an ADD
        ({ pod: victim } = await untold(scene, scene.fresh("victim"), uid));
        for (const address of victim.ips)
          await evil.exec([
            "ip",
            "address",
            "add",
            address,
            "dev",
            "lo",
            ...(address.includes(":") ? ["nodad"] : []),
          ]);
        kubelet.labelPod(victim, ambient);
        await Promise.all([atHeight(), scene.untilState(victim, "enrolled")]);
        const { workloads } = await scene.mesh.ztunnel.stats();
        const isServed = workloads[uid]?.ino === String(await victim.netnsInode());
        const { stdout } = await evil.exec(["iptables-save", "-t", "nat"]);
        const isClean = !stdout.includes("ISTIO");
        return {
          measured: `served: ${isServed ? "the victim" : "ANOTHER"}, the impostor has ${isClean ? "no rules" : "RULES"}`,
          ok: isServed && isClean,
        };
      } finally {
        await endGroup(old);
        if (victim !== undefined) await kubelet.deletePod(victim);
        await kubelet.deletePod(evil);
      }
    },
  },
  {
    name: "deep-cgroups",
    what: "processes in cgroups 60 levels deep and in 400 beside each other, each named as a pod",
    bound: "a pod of which no ADD told is captured within 10 s",
    run: async (scene, atHeight) => {
      const evil = await scene.mesh.plainPods.runPodSandbox({ namespace: PLAIN, name: scene.fresh("deep") });
      const { pod, kubelet } = await untold(scene, scene.fresh("untold"));
      const made: string[] = [];
      const root = join(evil.cgroup, randomBytes(32).toString("hex"));
      const child = scene.inPod(evil, ["sleep", "infinity"]);
      try {
        let folder = root;
        await mkdir(folder);
        made.push(folder);
        for (let level = 0; level < 60; level++) {
          folder = join(folder, `pod${crypto.randomUUID()}`);
          await mkdir(folder);
          made.push(folder);
        }
        for (let index = 0; index < 400; index++) {
          const beside = join(root, `pod${crypto.randomUUID()}`);
          await mkdir(beside);
          made.push(beside);
        }
        await writeFile(join(folder, "cgroup.procs"), String(child.pid));
        const startMs = performance.now();
        kubelet.labelPod(pod, ambient);
        await Promise.all([atHeight(), scene.untilState(pod, "enrolled")]);
        const ms = performance.now() - startMs;
        return { measured: `captured within ${Math.round(ms)} ms`, ok: ms < 10_000 };
      } finally {
        await endGroup(child);
        await delay(50);
        for (const folder of made.toReversed()) await rmdir(folder).catch(() => {});
        await kubelet.deletePod(pod);
        await evil.delete();
      }
    },
  },
];
