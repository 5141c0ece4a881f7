// SPDX-License-Identifier: Apache-2.0
// Attacks by ztunnel, or by a broken one: refusals without end and without measure, answers that are none, and storms of connections.
import { setTimeout as delay } from "node:timers/promises";
import type { Attack } from "../attack.ts";
import { EVIL, repeat, type Scene } from "../scene.ts";

/** ztunnel has everything again. */
async function isWell(scene: Scene): Promise<void> {
  await scene.mesh.ztunnel.setFaults();
  await scene.mesh.ztunnel.waitForStats(
    ({ ready, connected, pending }) => ready && connected && pending.length === 0,
    25_000,
  );
}

/** Running pods of the attacker's that leave and enter the mesh, so that ztunnel has to answer for them. */
async function withEntering(scene: Scene, count: number, work: () => Promise<void>): Promise<string> {
  const pods = [];
  for (let index = 0; index < count; index++)
    pods.push(await scene.evilPod({ labels: { "istio.io/dataplane-mode": "none" } }));
  try {
    for (const pod of pods) scene.mesh.kubelet.labelPod(pod, { "istio.io/dataplane-mode": null });
    await work();
    await isWell(scene);
    for (const pod of pods) await scene.untilState(pod, "enrolled", 40_000);
    return `${count} of ${count} captured afterwards`;
  } finally {
    await scene.remove(...pods);
  }
}

function faulty(name: string, what: string, faults: readonly string[]): Attack {
  return {
    name,
    what,
    bound: "pods that wait for it are captured once it is well",
    stopsAdds: true,
    run: async (scene, atHeight) => {
      const measured = await withEntering(scene, 4, async () => {
        await scene.mesh.ztunnel.setFaults(...faults);
        await atHeight();
        await delay(4_000);
      });
      return { measured, ok: true };
    },
  };
}

export const answersOfZtunnel: readonly Attack[] = [
  faulty("nack-flood", "every pod is refused, each time with 60 KB of text", [
    "nack=\u001b[2J refused",
    "nack-size=60000",
  ]),
  faulty("never-acks", "nothing is ever acknowledged", ["never-ack"]),
  faulty("garbage-acks", "answers that are no protobuf", ["garbage-ack"]),
  faulty("empty-acks", "answers that hold no ack", ["empty-ack-payload"]),
  {
    name: "reconnect-storm",
    what: "ztunnel comes and goes 25 times in 5 s",
    bound: "it has every pod in the end",
    stopsAdds: true,
    run: async (scene, atHeight) => {
      const before = (await scene.mesh.ztunnel.stats()).connections;
      await atHeight();
      await repeat(25, 200, () => scene.mesh.ztunnel.command({ do: "reconnect" }));
      await isWell(scene);
      const { connections, workloads } = await scene.mesh.ztunnel.stats();
      const served = scene.bystanders.filter(({ uid }) => workloads[uid] !== undefined).length;
      return {
        measured: `${connections - before} connections, ${served} of ${scene.bystanders.length} pods`,
        ok: served === scene.bystanders.length,
      };
    },
  },
  {
    name: "ztunnel-stopped",
    what: "ztunnel is stopped (SIGSTOP) for 5 s while 4 pods start",
    bound: "the pods start when it goes on, or their ADD says why not",
    stopsAdds: true,
    run: async (scene, atHeight) => {
      const { pid } = scene.mesh.ztunnel;
      process.kill(pid, "SIGSTOP");
      const reasons: string[] = [];
      try {
        await atHeight();
        const starts = Array.from({ length: 4 }, () =>
          scene.evilPod().then(
            async (pod) => await scene.remove(pod),
            (error: Error) => void reasons.push(error.message),
          ),
        );
        await delay(5_000);
        process.kill(pid, "SIGCONT");
        await Promise.all(starts);
      } finally {
        process.kill(pid, "SIGCONT");
      }
      await isWell(scene);
      const dumb = reasons.filter((reason) => !/ztunnel/.test(reason)).length;
      for (const { metadata } of scene.mesh.api.store.list("pods"))
        if (metadata.namespace === EVIL) scene.mesh.api.delete("pods", metadata.name ?? "", EVIL);
      return { measured: `${reasons.length} refused, ${dumb} without the reason`, ok: dumb === 0 };
    },
  },
];
