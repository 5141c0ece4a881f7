// SPDX-License-Identifier: Apache-2.0
// Attacks of a pod on the agent's ports: connections without number, requests without end, and questions about others.
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { Attack, AttackGroup, Found } from "../attack.ts";
import { NODE_ADDRESS, PLAIN, type Scene } from "../scene.ts";

const ports = [8000, 15014];
const kernelTests = join(import.meta.dirname, "../../kernel");
/** Of the agent's process; few enough to be used up by who is let in. */
const nofile = 1024;
const promptMs = 200;

/** The slowest of some answers to the node's own questions, in ms. */
async function slowestAnswer(scene: Scene): Promise<number> {
  const times: number[] = [];
  for (let round = 0; round < 5; round++)
    for (const host of ["127.0.0.1", NODE_ADDRESS]) {
      times.push(await scene.askMs(8000, "/readyz", host), await scene.askMs(15014, "/metrics", host));
    }
  return Math.max(...times);
}

/** Connections of every annoying kind from a pod; each comes back as soon as it is cut. */
function portFlood(perKind: number): Attack {
  return {
    name: `port-flood-${perKind * 12}`,
    what: `${perKind * 12} connections of a pod to both ports: idle, drips, garbage, pipelined, half closed, half open`,
    bound: `the node's own probes answered within ${promptMs} ms; descriptors back afterwards`,
    run: async (scene, atHeight) => {
      const pod = await scene.mesh.plainPods.runPodSandbox({
        namespace: PLAIN,
        name: scene.fresh("flooder"),
      });
      const before = scene.agent.openFds();
      try {
        const { halfOpenPorts } = await import("../../kernel/port-flood.ts");
        const { first, last } = halfOpenPorts;
        const handshake = ["-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN,ACK", "--dport", `${first}:${last}`];
        await pod.exec(["iptables-nft", "-A", "INPUT", ...handshake, "-j", "DROP"]);
        const flooder = await pod.startModule<typeof import("../../kernel/port-flood.ts")>(
          join(kernelTests, "port-flood.ts"),
        );
        await flooder.call.flood({ host: NODE_ADDRESS, ports, perKind, pauseMs: 50 });
        await delay(1_000);
        await atHeight();
        const ms = await slowestAnswer(scene);
        const { attempts } = await flooder.call.tally();
        const most = scene.agent.openFds();
        await flooder.call.end();
        const isBack = (): boolean => scene.agent.openFds() <= before + 2;
        const back = await waitFor("the descriptors", isBack, { timeoutMs: 12_000, intervalMs: 50 }).catch(
          () => false,
        );
        return {
          measured: `${attempts} tried, ${Math.round(ms)} ms, ${before} descriptors, at most ${most}, ${back ? "back" : "NOT BACK"}`,
          ok: attempts >= perKind * 12 && ms < promptMs && back,
        };
      } finally {
        await pod.delete();
      }
    },
  };
}

interface Asker {
  ask(question: { host: string; port: number; bytes: string }): Promise<string>;
}

/** Asks from a pod, each port every question. */
async function askAll(
  scene: Scene,
  questions: readonly string[],
  { asked, atHeight }: { asked: (answers: readonly string[]) => Found; atHeight: () => Promise<void> },
): Promise<Found> {
  const pod = await scene.mesh.plainPods.runPodSandbox({ namespace: PLAIN, name: scene.fresh("asker") });
  try {
    const asker = await pod.startModule<Asker>(join(kernelTests, "port-asker.ts"));
    const answers: string[] = [];
    const ask = async (): Promise<void> => {
      for (const port of ports)
        for (const bytes of questions)
          answers.push(await asker.call.ask({ host: NODE_ADDRESS, port, bytes }));
    };
    await Promise.all([ask(), atHeight()]);
    return asked(answers);
  } finally {
    await pod.delete();
  }
}

const paths = [
  "/",
  "/metrics",
  "/healthz",
  "/readyz?verbose",
  "/api/v1/pods",
  "/api/v1/node",
  "/api/v1/log-levels",
  "/api/v1/pods/tenant/steady-1",
  "//api/v1/pods",
  "/%61pi/v1/pods",
  "/metrics/../api/v1/pods",
  "/debug/pprof",
  "/config_dump",
];

export const portAttacks: AttackGroup = {
  name: "ports",
  wrapper: ["prlimit", `--nofile=${nofile}:${nofile}`, "--"],
  attacks: [
    portFlood(40),
    portFlood(250),
    {
      name: "port-secrets",
      what: "a pod asks every port for all that the agent knows, under the node's names",
      bound: "nothing by which another tenant's pod is known",
      run: (scene, atHeight) => {
        const [victim] = scene.bystanders;
        if (victim === undefined) throw new Error("there is no bystander");
        const words = ["steady", victim.uid, ...victim.ips, victim.netns, victim.sandbox.id];
        const questions = paths.flatMap((path) =>
          ["node-1", "127.0.0.1"].map(
            (name) =>
              `GET ${path} HTTP/1.1\r\nHost: ${name}\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n`,
          ),
        );
        return askAll(scene, questions, {
          atHeight,
          asked: (answers) => {
            const told = answers.filter((answer) => words.some((word) => answer.includes(word))).length;
            const served = answers.filter((answer) => answer.startsWith("HTTP/1.1 200")).length;
            return {
              measured: `${answers.length} answers, ${served} with 200, ${told} tell`,
              ok: told === 0 && served > 0,
            };
          },
        });
      },
    },
    {
      name: "port-long-requests",
      what: "heads and bodies of 20 MB, smuggled second requests, endless chunks",
      bound: "each is refused or cut, and every port answers as before",
      run: (scene, atHeight) => {
        const long = "x".repeat(20 << 20);
        const questions = [
          `GET /metrics HTTP/1.1\r\nX: ${long}\r\n\r\n`,
          `POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: ${long.length}\r\n\r\n${long}`,
          `POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999999999999\r\n\r\n`,
          `POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n`,
          `POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n${long}`,
          "GET /metrics HTTP/1.1\nHost: x\n\n",
          `${"GET / HTTP/1.1\r\n".repeat(10_000)}\r\n`,
          "\u0016\u0003\u0001 hello\r\n\r\n",
        ];
        return askAll(scene, questions, {
          atHeight,
          asked: (answers) => {
            const good = answers.filter((answer) => answer.startsWith("HTTP/1.1 200")).length;
            return { measured: `${answers.length} requests, ${good} with 200`, ok: good === 0 };
          },
        });
      },
    },
    {
      name: "host-port",
      what: "a pod takes the agent's ports on the node by hostPort (portmap)",
      bound: "the pod is captured; the agent answers on its socket; its ports answer once the pod is gone",
      run: async (scene, atHeight) => {
        const portMappings = ports.map((port) => ({ hostPort: port, containerPort: 8080, protocol: "tcp" }));
        const { kubelet, remove } = scene.withPortmap();
        const pod = await kubelet.runPod({
          namespace: "evil",
          name: scene.fresh("host-port"),
          capabilityArgs: { portMappings },
        });
        let state = "";
        try {
          await atHeight();
          ({ state } = await scene.report(pod));
          const { stdout } = await run(["iptables", "-t", "nat", "-S"]);
          if (!stdout.includes("--dport 8000")) throw new Error("portmap wrote no rule");
        } finally {
          await remove(pod);
        }
        const ms = await slowestAnswer(scene);
        return {
          measured: `${state}, afterwards answers within ${Math.round(ms)} ms`,
          ok: state === "enrolled" && ms < promptMs,
        };
      },
    },
  ],
};
