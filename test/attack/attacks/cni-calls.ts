// SPDX-License-Identifier: Apache-2.0
// Attacks by CNI calls: many at once, for pods that are not there, with words that are none, about namespaces of others.
import { randomBytes } from "node:crypto";
import { type CniVerb, execPlugin } from "../../support/node/cni-exec.ts";
import { inNetns, iptablesSave } from "../../support/node/kernel.ts";
import { PLUGIN_DIR } from "../../support/node/mesh-node.ts";
import { cleanEnv } from "../../support/node/run.ts";
import type { Attack } from "../attack.ts";
import { EVIL, type Scene, TENANT } from "../scene.ts";

interface Call {
  readonly verb: CniVerb;
  readonly containerId: string;
  readonly netns: string;
  readonly ifname?: string;
  readonly args?: string;
  readonly config?: object;
}

/** Calls the launcher as a runtime does. @returns "ok", or the error's code and text */
async function call({
  verb,
  containerId,
  netns,
  ifname = "eth0",
  args = "",
  config = {},
}: Call): Promise<string> {
  const env = cleanEnv({
    CNI_COMMAND: verb,
    CNI_CONTAINERID: containerId,
    CNI_NETNS: netns,
    CNI_IFNAME: ifname,
    CNI_PATH: PLUGIN_DIR,
    CNI_ARGS: args,
  });
  const stdin = JSON.stringify({
    cniVersion: "1.0.0",
    name: "podnet",
    type: "ambient-cni",
    agent_wait_seconds: 5,
    ...config,
  });
  try {
    await execPlugin({ type: "ambient-cni", binDirs: [PLUGIN_DIR], env, stdin, timeoutMs: 30_000 });
    return "ok";
  } catch (error) {
    return (error as Error).message;
  }
}

function podArgs(namespace: string, name: string, uid: string): string {
  return `IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name};K8S_POD_UID=${uid}`;
}

const newId = (): string => randomBytes(32).toString("hex");

/** Connections to the API server that wait for use. */
const pooled = 26;

/** Many calls at once; each has to end, whatever it says. */
function flood(name: string, what: string, count: number, of: (scene: Scene, index: number) => Call): Attack {
  return {
    name,
    what,
    bound: "every call ends within 30 s; descriptors as before",
    run: async (scene, atHeight) => {
      const before = scene.agent.openFds();
      const startMs = performance.now();
      const calls = Promise.all(Array.from({ length: count }, (_, index) => call(of(scene, index))));
      const [answers] = await Promise.all([calls, atHeight()]);
      const seconds = (performance.now() - startMs) / 1000;
      const good = answers.filter((answer) => answer === "ok").length;
      const after = scene.agent.openFds();
      return {
        measured: `${answers.length} ended in ${seconds.toFixed(1)} s, ${good} with success; descriptors ${before} to ${after}`,
        ok: answers.length === count && seconds < 30 && after <= before + pooled,
      };
    },
  };
}

export const cniCalls: readonly Attack[] = [
  flood("add-flood", "60 ADDs at once of pods that the API server does not know", 60, (_, index) => ({
    verb: "ADD",
    containerId: newId(),
    netns: "/proc/self/ns/net",
    args: podArgs(EVIL, `nobody-${index}`, crypto.randomUUID()),
    config: { prevResult: { cniVersion: "1.0.0", ips: [{ address: `10.98.0.${index}/24` }] } },
  })),
  flood("del-flood", "150 DELs at once of sandboxes that never were", 150, (_, index) => ({
    verb: "DEL",
    containerId: newId(),
    netns: "",
    args: podArgs(EVIL, `nobody-${index}`, crypto.randomUUID()),
  })),
  {
    name: "add-of-host-namespace",
    what: "ADD of a pod of the mesh with the node's own network namespace, by three of its names",
    bound: "refused each time; no rule of a pod's on the node",
    run: async (scene, atHeight) => {
      const name = scene.fresh("host-netns");
      const uid = crypto.randomUUID();
      scene.mesh.api.put("pods", {
        metadata: { name, namespace: EVIL, uid },
        spec: { nodeName: "node-1", serviceAccountName: "default", containers: [] },
        status: { phase: "Pending" },
      });
      const paths = ["/proc/1/ns/net", "/proc/self/ns/net", `/proc/${scene.agent.pid}/ns/net`];
      const answers: string[] = [];
      for (const netns of paths)
        answers.push(
          await call({
            verb: "ADD",
            containerId: newId(),
            netns,
            args: podArgs(EVIL, name, uid),
            config: { prevResult: { cniVersion: "1.0.0", ips: [{ address: "10.210.9.9/16" }] } },
          }),
        );
      await atHeight();
      scene.mesh.api.delete("pods", name, EVIL);
      const saved = `${await iptablesSave("/proc/self/ns/net", 4)}${(await inNetns("/proc/self/ns/net", ["ip", "rule"])).stdout}`;
      const written = /ISTIO_OUTPUT|ISTIO_PRERT|0x111/.test(saved);
      const refused = answers.filter((answer) => answer !== "ok").length;
      return {
        measured: `${refused} of ${paths.length} refused, ${written ? "RULES ON THE NODE" : "no rule"}`,
        ok: refused === paths.length && !written,
      };
    },
  },
  {
    name: "add-of-another-uid",
    what: "ADD under another tenant's names, with a UID of its own and its own namespace",
    bound: "refused; the other's namespace stays ztunnel's",
    run: async (scene, atHeight) => {
      const [victim] = scene.bystanders;
      if (victim === undefined) throw new Error("there is no bystander");
      const evil = await scene.evilPod();
      try {
        const answer = await call({
          verb: "ADD",
          containerId: newId(),
          netns: evil.netns,
          args: podArgs(TENANT, victim.spec.name, crypto.randomUUID()),
          config: {
            prevResult: { cniVersion: "1.0.0", ips: victim.ips.map((ip) => ({ address: `${ip}/32` })) },
          },
        });
        await atHeight();
        const { workloads } = await scene.mesh.ztunnel.stats();
        const isServed = workloads[victim.uid]?.ino === String(await victim.netnsInode());
        return { measured: answer === "ok" ? "SUCCESS" : "refused", ok: answer !== "ok" && isServed };
      } finally {
        await scene.remove(evil);
      }
    },
  },
  {
    name: "cni-words",
    what: "calls with ids of 60 KB, paths with .., ESC and line breaks, 16,000 addresses, 900 KB of configuration",
    bound: "each is refused, or does nothing; no ESC in the log",
    run: async (scene, atHeight) => {
      const before = scene.agent.lines.length;
      const long = "a".repeat(60_000);
      const ips = Array.from({ length: 16_000 }, (_, index) => ({
        address: `10.97.${index >> 8}.${index & 255}/32`,
      }));
      // without a pod's names in it a call is none of ours, and succeeds
      const args = podArgs(EVIL, "nobody", "u");
      const evil = { verb: "ADD", containerId: newId(), netns: "/run/netns/none", args } as const;
      const calls: readonly Call[] = [
        { ...evil, containerId: long },
        { ...evil, containerId: "../../../etc/passwd" },
        { ...evil, containerId: "\u001b[2J\n" },
        { ...evil, netns: `/run/netns/../../../proc/1/ns/net` },
        { ...evil, netns: `/${long}` },
        { ...evil, ifname: "../../x" },
        { ...evil, ifname: long },
        { ...evil, args: podArgs(long, long, long) },
        { ...evil, args: podArgs("\u001b[2J", "a\nb", "\u0007") },
        { ...evil, config: { prevResult: { cniVersion: "1.0.0", ips } } },
        { ...evil, config: { pad: "x".repeat(900_000) } },
        { ...evil, config: { name: "../../etc" } },
        { ...evil, config: { cniVersion: "9.9.9" } },
        { ...evil, config: { prevResult: "x" } },
        { ...evil, verb: "GC", config: { name: "other", "cni.dev/valid-attachments": [] } },
      ];
      const answers: string[] = [];
      for (const each of calls) answers.push(await call(each));
      await atHeight();
      const good = answers.filter((answer) => answer === "ok").length;
      const raw = scene.agent.lines.slice(before).filter(({ text }) => text.includes("\u001b")).length;
      // GC of another network succeeds, and finds nothing that it is about
      return {
        measured: `${calls.length} calls, ${good} with success, ${raw} lines with ESC`,
        ok: good <= 1 && raw === 0,
      };
    },
  },
];
