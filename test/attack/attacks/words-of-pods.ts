// SPDX-License-Identifier: Apache-2.0
// Attacks of who may write pods in a namespace: every word of such an object, without measure and again and again.
import { setTimeout as delay } from "node:timers/promises";
import type { Pod } from "../../support/node/pod.ts";
import type { Attack } from "../attack.ts";
import { EVIL, PLAIN, repeat, type Scene } from "../scene.ts";

const reroute = "istio.io/reroute-virtual-interfaces";
const redirection = "ambient.istio.io/redirection";
/** As much as Kubernetes takes of all annotations of an object together. Source: kubernetes apimachinery pkg/api/validation/objectmeta.go. */
const annotationBytes = 256 << 10;

/** Lines of the agent's log from an index on, as it has written them. */
function linesSince(scene: Scene, index: number): string[] {
  return scene.agent.lines.slice(index).map(({ text }) => text);
}

/** A pod whose annotation is written anew 20 times, with each of these contents. */
function annotationFlood(name: string, what: string, contents: readonly string[]): Attack {
  const mostWarnings = contents.length * 16;
  return {
    name,
    what,
    bound: `at most ${mostWarnings} warnings, no ESC, every line is JSON`,
    run: async (scene, atHeight) => {
      const before = scene.agent.lines.length;
      const pods: Pod[] = [];
      for (const content of contents) pods.push(await scene.evilPod({ annotations: { [reroute]: content } }));
      const flips = async (): Promise<void> => {
        for (const [index, pod] of pods.entries())
          await scene.proxy.call.floodVersions({
            object: scene.mesh.api.store.get("pods", pod.spec.name, EVIL),
            count: 20,
            pauseMs: 25,
            changed: { kind: "annotations", name: reroute, value: `,${contents[index]}` },
          });
      };
      await Promise.all([flips(), atHeight()]);
      const lines = linesSince(scene, before);
      const warnings = lines.filter((text) => text.includes('"level":"warn"')).length;
      const raw = lines.filter((text) => text.includes("\u001b") || !text.startsWith("{")).length;
      await scene.proxy.call.expire();
      const states = await Promise.all(pods.map(async (pod) => (await scene.report(pod)).state));
      await scene.remove(...pods);
      const enrolled = states.filter((state) => state === "enrolled").length;
      return {
        measured: `${warnings} warnings, ${raw} unclean lines, ${enrolled} of ${pods.length} captured`,
        ok: warnings <= mostWarnings && raw === 0 && enrolled === pods.length,
      };
    },
  };
}

export const wordsOfPods: readonly Attack[] = [
  annotationFlood("annotation-flood", "256 KiB of unusable interface names, 20 versions, 3 pods", [
    "!,".repeat(annotationBytes / 2),
    ",".repeat(annotationBytes),
    Array.from({ length: 38_000 }, (_, index) => `t${index}`).join(","),
  ]),
  annotationFlood("annotation-escapes", "256 KiB of ESC, NUL and wide characters, 20 versions, 3 pods", [
    "\n\u001b[2J".repeat(annotationBytes / 5),
    "\u0001".repeat(annotationBytes / 6),
    "\u{1f600}".repeat(annotationBytes / 4),
  ]),
  {
    name: "label-flood",
    what: "a pod with 10,000 labels, each of 63 bytes, 20 versions",
    bound: "the pod is captured; at most 16 lines",
    run: async (scene, atHeight) => {
      const before = scene.agent.lines.length;
      const labels = Object.fromEntries(
        Array.from({ length: 10_000 }, (_, index) => [`label-${index}`, "v".repeat(63)]),
      );
      const pod = await scene.evilPod({ labels });
      const flips = scene.proxy.call.floodVersions({
        object: scene.mesh.api.store.get("pods", pod.spec.name, EVIL),
        count: 20,
        pauseMs: 20,
        changed: { kind: "labels", name: "label-0", value: "v" },
      });
      await Promise.all([flips, atHeight()]);
      await scene.proxy.call.expire();
      const { state } = await scene.report(pod);
      const lines = linesSince(scene, before).filter((text) => text.includes(pod.spec.name)).length;
      await scene.remove(pod);
      return { measured: `${state}, ${lines} lines`, ok: state === "enrolled" && lines <= 16 };
    },
  },
  {
    name: "hostile-names",
    what: "objects with names of ESC, ../, __proto__, 60 KiB, and no names at all",
    bound: "none is kept, no ESC in the log, the agent's folder as it was",
    run: async (scene, atHeight) => {
      const before = scene.agent.lines.length;
      const { proxy } = scene;
      const names = [
        "a\n\u001b[2J\u001b]0;title\u0007",
        "../../../etc/passwd",
        "__proto__",
        "n".repeat(60_000),
        "",
        'x\n{"level":"error"}',
      ];
      for (const [index, name] of names.entries())
        for (const namespace of [EVIL, name])
          await proxy.call.sendLine(
            JSON.stringify({
              type: "ADDED",
              object: {
                metadata: { uid: name || `uid-${index}`, name, namespace, resourceVersion: "9000000" },
                spec: { nodeName: "node-1", serviceAccountName: name },
                status: { phase: "Pending", podIPs: [{ ip: name }, { ip: 7 }] },
              },
            }),
          );
      await atHeight();
      const answer = await scene.stateText("/api/v1/pods");
      const text = `${linesSince(scene, before).join("\n")}\n${answer}`;
      await proxy.call.expire();
      await scene.settled();
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
      const raw = /[\u0007\u001b]/.test(text) ? "raw ESC" : "no raw ESC";
      const long = answer.includes("n".repeat(300)) ? "a long name is kept" : "no long name is kept";
      return {
        measured: `${raw}, ${long}`,
        ok: raw === "no raw ESC" && long === "no long name is kept",
      };
    },
  },
  {
    name: "pods-without-sandbox",
    what: "1,000 pods of the node that never get a sandbox come and go",
    bound: "none is left 5 s later",
    run: async (scene, atHeight) => {
      const { api } = scene.mesh;
      const names = Array.from({ length: 1_000 }, (_, index) => `ghost-${index}`);
      const flood = async (): Promise<void> => {
        for (const [index, name] of names.entries()) {
          api.put("pods", {
            metadata: { name, namespace: EVIL, uid: `uid-${name}` },
            spec: { nodeName: "node-1", serviceAccountName: "default", containers: [] },
            status: {
              phase: "Running",
              podIP: `10.99.${index >> 8}.${index & 255}`,
              podIPs: [{ ip: `10.99.${index >> 8}.${index & 255}` }],
            },
          });
          if (index % 20 === 0) await delay(5);
        }
      };
      await Promise.all([flood(), atHeight()]);
      for (const name of names) api.delete("pods", name, EVIL);
      const left = await scene.podsLeft((name) => name.startsWith("ghost-"));
      return { measured: `${left} left`, ok: left === 0 };
    },
  },
  {
    name: "event-flood",
    what: "20,000 events of 200 pods of this node, 500 at once",
    bound: "none is left after the next list",
    run: (scene, atHeight) => flood(scene, atHeight, "node-1"),
  },
  {
    name: "foreign-event-flood",
    what: "20,000 events of pods of other nodes, 500 at once",
    bound: "none is left after the next list",
    run: (scene, atHeight) => flood(scene, atHeight, "other"),
  },
  {
    name: "label-toggle",
    what: "a pod enters and leaves the mesh 60 times in 3 s",
    bound: "it ends where its label says",
    run: async (scene, atHeight) => {
      const pod = await scene.evilPod();
      const label = "istio.io/dataplane-mode";
      const toggles = repeat(60, 50, (index) =>
        scene.mesh.kubelet.labelPod(pod, { [label]: index % 2 === 0 ? "none" : null }),
      );
      await Promise.all([toggles, atHeight()]);
      await scene.untilState(pod, "enrolled", 20_000);
      const { state } = await scene.report(pod);
      await scene.remove(pod);
      return { measured: state, ok: state === "enrolled" };
    },
  },
  {
    name: "claimed-identity",
    what: "pods that claim the UID, the addresses and the containers of another tenant's",
    bound: "ztunnel has the other's namespace, and none more",
    run: async (scene, atHeight) => {
      const { api } = scene.mesh;
      const [victim] = scene.bystanders;
      if (victim === undefined) throw new Error("there is no bystander");
      const addresses = victim.ips.map((ip) => ({ ip }));
      api.put("pods", {
        metadata: { name: "thief-1", namespace: EVIL, uid: "uid-thief-1" },
        spec: { nodeName: "node-1", serviceAccountName: "admin", containers: [] },
        status: {
          phase: "Running",
          podIP: victim.ip4,
          podIPs: addresses,
          containerStatuses: [{ name: "app", containerID: `containerd://${victim.sandbox.id}` }],
        },
      });
      await atHeight();
      await delay(2_500);
      const { workloads } = await scene.mesh.ztunnel.stats();
      const ino = String(await victim.netnsInode());
      const owners = Object.entries(workloads).filter(([, each]) => each.ino === ino);
      api.delete("pods", "thief-1", EVIL);
      const ok = owners.length === 1 && owners[0]?.[0] === victim.uid;
      return { measured: `served for ${owners.map(([, { info }]) => info.name).join(", ")}`, ok };
    },
  },
  {
    name: "sidecar-by-annotation",
    what: "a pod with a sidecar's chains says that we captured it",
    bound: "not one of its rules goes",
    run: async (scene, atHeight) => {
      const pod = await scene.mesh.kubelet.runPod({ namespace: PLAIN, name: scene.fresh("sidecar") });
      await pod.exec(["iptables-restore", "--noflush"], { stdin: sidecarRules });
      const rules = async (): Promise<string> =>
        (await pod.exec(["iptables-save", "-t", "nat"])).stdout.replace(/^#.*\n|\[\d+:\d+\]/gm, "");
      const before = await rules();
      scene.mesh.api.edit("pods", { name: pod.spec.name, namespace: PLAIN }, ({ metadata }) => {
        metadata.annotations = { "sidecar.istio.io/status": "{}", [redirection]: "enabled" };
      });
      await atHeight();
      await scene.untilState(pod, "outside");
      const isSame = (await rules()) === before;
      await scene.remove(pod);
      return { measured: isSame ? "all are there" : "rules are gone", ok: isSame };
    },
  },
];

async function flood(
  scene: Scene,
  atHeight: () => Promise<void>,
  nodeName: string,
): Promise<{ measured: string; ok: boolean }> {
  const { proxy } = scene;
  await Promise.all([proxy.call.floodEvents({ count: 20_000, names: 200, nodeName }), atHeight()]);
  await proxy.call.expire();
  const left = await scene.podsLeft((name) => name.startsWith("flood-"));
  await scene.settled();
  return { measured: `${left} left`, ok: left === 0 };
}

const sidecarRules = `*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
`;
