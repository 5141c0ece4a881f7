// SPDX-License-Identifier: Apache-2.0
// Attacks on the agent's Unix sockets: garbage, silence, storms, a stranger, and files that are not there any more.
import { randomBytes } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { rm, stat } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import { RawClient } from "../../support/ztunnel/raw-client.ts";
import type { Attack } from "../attack.ts";
import { RUN_DIR, type Scene, STATE_SOCKET } from "../scene.ts";

const pluginSocket = `${RUN_DIR}/pluginevent.sock`;
const ztunnelSocket = "/var/run/ztunnel/ztunnel.sock";

/** Opens so many connections to a stream socket; each one's errors are its own. */
function openMany(path: string, count: number, onconnect: (socket: Socket, index: number) => void): Socket[] {
  return Array.from({ length: count }, (_, index) => {
    const socket = connect({ path });
    socket.on("error", () => {});
    socket.on("connect", () => onconnect(socket, index));
    socket.resume();
    return socket;
  });
}

async function descriptorsBack(scene: Scene, before: number): Promise<boolean> {
  const isBack = (): boolean => scene.agent.openFds() <= before + 2;
  return await waitFor("descriptors", isBack, { timeoutMs: 15_000, intervalMs: 50 }).catch(() => false);
}

function streamGarbage(name: string, path: string): Attack {
  return {
    name,
    what: `400 connections to ${path.split("/").at(-1)}: silent, random bytes, half requests, 4 MB without an end`,
    bound: "all are cut; descriptors as before",
    run: async (scene, atHeight) => {
      const before = scene.agent.openFds();
      const head = "POST /v1/cni HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n";
      const sockets = openMany(path, 400, (socket, index) => {
        if (index % 4 === 1) socket.write(randomBytes(10_000));
        else if (index % 4 === 2) socket.write(head);
        else if (index % 40 === 3) socket.write(Buffer.alloc(4 << 20, "A"));
      });
      await delay(300);
      const most = scene.agent.openFds();
      await atHeight();
      for (const socket of sockets) socket.destroy();
      const back = await descriptorsBack(scene, before);
      return {
        measured: `at most ${most} descriptors, ${back ? `back to ${before}` : "NOT BACK"}`,
        ok: back,
      };
    },
  };
}

/** Connects as ztunnel does. A full queue of the listener refuses: that is no fault. */
function zdsClients(count: number): RawClient[] {
  const clients: RawClient[] = [];
  for (let index = 0; index < count; index++) {
    try {
      clients.push(new RawClient(ztunnelSocket));
    } catch {
      // the queue is full
    }
  }
  return clients;
}

/** The stand-in has the agent's word again, after strangers have left. */
async function ztunnelIsBack(scene: Scene): Promise<void> {
  await scene.mesh.ztunnel.waitForStats(({ ready, connected }) => ready && connected, 20_000);
}

export const socketAttacks: readonly Attack[] = [
  streamGarbage("plugin-socket-garbage", pluginSocket),
  streamGarbage("state-socket-garbage", STATE_SOCKET),
  {
    name: "zds-garbage",
    what: "60 ZDS clients send random packets of up to 64 KB, with descriptors that nobody asked for",
    bound: "all are cut; descriptors as before",
    run: async (scene, atHeight) => {
      const before = scene.agent.openFds();
      const fd = openSync("/proc/self/ns/net", "r");
      let connected = 0;
      try {
        const storm = async (): Promise<void> => {
          for (let round = 0; round < 12; round++) {
            const clients = zdsClients(5);
            connected += clients.length;
            for (const client of clients) {
              try {
                client.sendFd(randomBytes(200).toString("hex"), fd);
                client.sendBytes(randomBytes(60_000));
              } catch {
                // it has been cut already
              }
            }
            await delay(150);
            for (const client of clients) client.close();
          }
        };
        await Promise.all([storm(), atHeight()]);
      } finally {
        closeSync(fd);
      }
      await ztunnelIsBack(scene);
      const back = await descriptorsBack(scene, before);
      return {
        measured: `${connected} connected, ${back ? "descriptors back" : "NOT BACK"}`,
        ok: back && connected > 20,
      };
    },
  },
  {
    name: "zds-silent-storm",
    what: "ZDS clients that never say hello, 20 at a time, for 4 s",
    bound: "ztunnel keeps its connection; descriptors as before",
    run: async (scene, atHeight) => {
      const before = scene.agent.openFds();
      const { connections } = await scene.mesh.ztunnel.stats();
      let connected = 0;
      const storm = async (): Promise<void> => {
        const all: RawClient[] = [];
        for (let round = 0; round < 20; round++) {
          const clients = zdsClients(20);
          connected += clients.length;
          all.push(...clients);
          await delay(200);
        }
        for (const client of all) client.close();
      };
      await Promise.all([storm(), atHeight()]);
      await ztunnelIsBack(scene);
      const again = (await scene.mesh.ztunnel.stats()).connections - connections;
      const back = await descriptorsBack(scene, before);
      return {
        measured: `${connected} connected, ztunnel came ${again} times again, ${back ? "descriptors back" : "NOT BACK"}`,
        // those of the first moment; who keeps its place without a word keeps the others out
        ok: back && again === 0 && connected >= 20,
      };
    },
  },
  {
    name: "zds-by-a-stranger",
    what: "a process of another user connects to each socket",
    bound: "EACCES at all three",
    run: async (_scene, atHeight) => {
      const script =
        "import socket,sys\n" +
        "for path, kind in ((sys.argv[1], socket.SOCK_STREAM), (sys.argv[2], socket.SOCK_STREAM), (sys.argv[3], socket.SOCK_SEQPACKET)):\n" +
        "  try:\n    socket.socket(socket.AF_UNIX, kind).connect(path); print('OPEN')\n" +
        "  except OSError as e: print(e.errno)\n";
      const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
      const python = ["/usr/bin/env", "python3", "-c", script, pluginSocket, STATE_SOCKET, ztunnelSocket];
      await atHeight();
      const { stdout } = await run([...nobody, ...python]);
      const answers = stdout.trim().split("\n");
      return {
        measured: answers.map((code) => (code === "13" ? "EACCES" : code)).join(", "),
        ok: answers.join() === "13,13,13",
      };
    },
  },
  {
    name: "sockets-taken-away",
    what: "the files of all three sockets are deleted",
    bound: "they are back within 10 s, and pods start",
    stopsAdds: true,
    run: async (_scene, atHeight) => {
      const paths = [pluginSocket, STATE_SOCKET, ztunnelSocket];
      for (const path of paths) await rm(path);
      await atHeight();
      const startMs = performance.now();
      for (const path of paths)
        await waitFor(`"${path}"`, async () => (await stat(path)).isSocket(), {
          timeoutMs: 20_000,
          intervalMs: 50,
        });
      const seconds = (performance.now() - startMs) / 1000;
      return { measured: `back after ${seconds.toFixed(1)} s`, ok: seconds < 10 };
    },
  },
];
