// SPDX-License-Identifier: Apache-2.0
// Uses everything of the addon many times over and prints, as JSON, what the process holds after each round.
// usage: cycles.ts CYCLES_PER_ROUND NETNS_PATH (run with --expose-gc --max-semi-space-size=1: the heap of V8 would hide the rest)
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { makeNetns, namespaceOwner, netlinkInNetns, socketInNetns } from "../../src/linux/native.ts";
import { encodeRequests, NLM, sortAnswers } from "../../src/linux/netlink/message.ts";
import { connectSeqpacket, listenSeqpacket } from "../../src/linux/seqpacket.ts";
import { existingXtablesInNetns, xtablesInNetns } from "../../src/linux/xtables-netns.ts";

const PIPELINE = 8;
/** What glibc and V8 keep for themselves grows for three of them. */
const ROUNDS = 5;

const [, , count = "", netnsPath = ""] = process.argv;
const cycles = Number(count);
const addonPath = join(import.meta.dirname, "../../native/build/ambient.node");
const addon = createRequire(import.meta.url)(addonPath);
const folder = mkdtempSync(join(tmpdir(), "ambient-cycles-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
const socketPath = join(folder, "cycles.sock");
const netnsFd = openSync(netnsPath, "r");
const hello = Uint8Array.of(8, 1);
const request = encodeRequests([
  { type: 18, flags: NLM.ack, body: Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
  { type: 22, flags: NLM.dump, body: new Uint8Array(8) },
]);

/** As ztunnel and the agent do it: connect, hello, a packet with a descriptor, ack, close. */
async function cycleConnections(times: number): Promise<void> {
  using listener = listenSeqpacket(socketPath, { backlog: 100 });
  listener.onconnection = (connection) => {
    connection.onpacket = ({ data }) => {
      if (data[0] === 8) connection.send(hello, netnsFd);
      else connection.close();
    };
  };
  const cycle = () =>
    new Promise<void>((resolve) => {
      const client = connectSeqpacket(socketPath);
      client.onpacket = ({ fds }) => {
        for (const fd of fds) closeSync(fd);
        client.send(Uint8Array.of(10, 0));
      };
      client.onend = () => {
        client.close();
        resolve();
      };
      client.send(hello);
    });
  for (let i = 0; i < times; i += PIPELINE) await Promise.all(Array.from({ length: PIPELINE }, cycle));
  rmSync(socketPath);
}

function cycleSockets(times: number): void {
  for (let i = 0; i < times; i++) {
    closeSync(socketInNetns(netnsFd, { family: 6, type: "stream", port: 0, mark: 1337, backlog: 1 }));
    if (i % 10 === 0) refused(() => socketInNetns(netnsFd, { family: 4, type: "dgram", address: "no" }));
    closeSync(namespaceOwner(netnsFd));
    if (i % 10 === 2) refused(() => namespaceOwner(0));
    if (i % 10 === 1) refused(() => socketInNetns(0, { family: 4, type: "dgram" }));
  }
}

async function cycleNetlink(times: number): Promise<void> {
  const conversation = async () => {
    const answers = sortAnswers(2, await netlinkInNetns(netnsFd, 0, request));
    if (answers.some(({ error }) => error !== 0)) throw new Error(JSON.stringify(answers));
  };
  for (let i = 0; i < times; i += PIPELINE) {
    await Promise.all(Array.from({ length: PIPELINE }, conversation));
    if (i % 80 === 0) closeSync(await makeNetns());
    if (i % 80 === 0) await netlinkInNetns(0, 0, request).catch(() => {});
    if (i % 80 === 8) await netlinkInNetns(-1, 0, request).catch(() => {});
    if (i % 80 === 16) await netlinkInNetns(netnsFd, 0, request.subarray(0, 17)).catch(() => {});
  }
}

async function cycleTables(times: number): Promise<void> {
  const chains = [{ chain: "A" }, { chain: "CHAIN" }];
  for (let i = 0; i < times; i += PIPELINE) {
    const reads = Array.from({ length: PIPELINE }, (_, j) => xtablesInNetns(netnsFd, j % 2 ? 6 : 4, "nat"));
    await Promise.all(reads);
    if (i % 80 === 0) await xtablesInNetns(0, 4, "nat").catch(() => {});
    if (i % 80 === 8) await xtablesInNetns(netnsFd, 4, "none").catch(() => {});
    if (i % 80 === 16) await xtablesInNetns(-1, 4, "nat").catch(() => {});
    if (i % 80 === 24) await xtablesInNetns(netnsFd, 6, "x".repeat(32)).catch(() => {});
    if (i % 80 === 32)
      await existingXtablesInNetns(netnsFd, [
        { family: 6, table: i % 160 === 32 ? "nat" : "none", chains },
        { family: 4, table: "nat", chains },
      ]);
  }
}

/** Ears that are opened, hear, listen again and are closed, or left to the collector. */
async function cycleNotices(times: number): Promise<void> {
  const groups = [
    [12, 7],
    [0, 1, 5, 7, 8, 9, 11, 19],
  ];
  for (let i = 0; i < times; i += PIPELINE) {
    const listeners = await Promise.all(
      Array.from({ length: PIPELINE }, () => addon.notifyInNetns(netnsFd, groups)),
    );
    for (const [j, listener] of listeners.entries()) {
      addon.notifyListen(listener, () => {});
      if (i % 80 === 0) addon.notifyListen(listener, () => {});
      if (i % 800 !== 8 || j > 0) addon.notifyClose(listener);
      if (i % 80 === 16) addon.notifyClose(listener);
    }
    if (i % 80 === 24) await addon.notifyInNetns(0, groups).catch(() => {});
    if (i % 80 === 32)
      await addon
        .notifyInNetns(netnsFd, [
          [0, 1],
          [99, 1],
        ])
        .catch(() => {});
    if (i % 80 === 40)
      await addon
        .notifyInNetns(netnsFd, [
          [0, 1],
          [0, 4_000_000],
        ])
        .catch(() => {});
  }
}

/** Questions that are asked again and again, have another answer at once or never, and are closed or left to the collector. */
async function cyclePolls(times: number): Promise<void> {
  const answer = await netlinkInNetns(netnsFd, 0, request);
  for (let i = 0; i < times; i += PIPELINE) {
    const polls = await Promise.all(
      Array.from({ length: PIPELINE }, () => addon.pollInNetns(netnsFd, 0, request, 1, () => {})),
    );
    for (const [j, poll] of polls.entries()) {
      addon.pollFrom(poll, j % 2 === 0 ? answer : hello);
      if (i % 80 === 0) addon.pollFrom(poll, answer);
      if (i % 800 !== 8 || j > 0) addon.pollClose(poll);
      if (i % 80 === 16) addon.pollClose(poll);
    }
    if (i % 80 === 24) await addon.pollInNetns(0, 0, request, 1, () => {}).catch(() => {});
    if (i % 80 === 32) await addon.pollInNetns(netnsFd, 99, request, 1, () => {}).catch(() => {});
    if (i % 80 === 40) await new Promise((resolve) => setTimeout(resolve, 3));
  }
}

/** Ways to go wrong: failing calls, arguments of wrong types, packets cut short, handles nobody wants. */
async function cycleMistakes(times: number): Promise<void> {
  using listener = listenSeqpacket(socketPath, { backlog: 100, maxPacketBytes: 3, maxFds: 0 });
  listener.onconnection = (connection) => {
    connection.onend = () => connection.close();
    connection.onpacket = ({ truncated, controlTruncated }) => {
      if (!truncated || !controlTruncated) throw new Error("a packet that is too long came whole");
      connection.send(Buffer.from("never read"));
      connection.close();
    };
  };
  for (let i = 0; i < times; i++) {
    refused(() => listenSeqpacket(socketPath, {}));
    refused(() => connectSeqpacket(join(folder, "x".repeat(200))));
    refused(() => addon.connect(socketPath));
    refused(() => addon.send({}, hello, -1));
    refused(() => addon.send(addon.connect(socketPath, 16, 0), "text", -1));
    refused(() => addon.start(addon.connect(socketPath, 16, 0), null));
    refused(() => addon.listen(`${socketPath}\0`, 1, 0, 1, 0));
    refused(() => addon.netlinkInNetns(netnsFd, 0, [1, 2], 1, 0));
    refused(() => addon.xtablesInNetns(netnsFd, "4nat", false));
    refused(() => addon.xtablesInNetns(netnsFd, "4nat\0", false, 0, false));
    refused(() => addon.xtablesInNetns(netnsFd, "4nat\n", false, 0, false));
    refused(() => addon.xtablesInNetns(netnsFd, "4nat\tA\n\tA", false, 0, false));
    refused(() => addon.xtablesInNetns(netnsFd, `6nat\n4${"x".repeat(32)}`, false, 0, false));
    refused(() => addon.notifyInNetns(netnsFd, []));
    refused(() => addon.notifyInNetns(netnsFd, [[0], [0], [0]]));
    refused(() => addon.notifyInNetns(netnsFd, [[]]));
    refused(() => addon.notifyInNetns(netnsFd, [["route"]]));
    refused(() => addon.notifyListen({}, () => {}));
    refused(() => addon.notifyClose(1));
    refused(() => addon.pollInNetns(netnsFd, 0, request, 0, () => {}));
    refused(() => addon.pollInNetns(netnsFd, 0, request, 1, 1));
    refused(() => addon.pollFrom({}, hello));
    const client = connectSeqpacket(socketPath);
    client.send(Buffer.from("too long"), netnsFd);
    await new Promise<void>((resolve) => {
      client.onend = resolve;
    });
    refused(() => client.send(hello));
    client.close();
  }
  rmSync(socketPath);
}

/** Threads that end with handles open and work in flight. */
async function cycleWorkers(times: number): Promise<void> {
  const code = `
    const addon = require(${JSON.stringify(addonPath)});
    const { parentPort, workerData: { path, netnsFd, request } } = require("node:worker_threads");
    const server = addon.listen(path, 5, 0o600, 100, 1);
    addon.start(server, (event, peer) => {
      if (event === 0) addon.start(peer, (kind) => kind === 1 && parentPort.postMessage("running"));
    });
    addon.readTurns(addon.watchTurns(), true);
    const client = addon.connect(path, 100, 1);
    addon.start(client, () => {});
    addon.connect(path, 100, 1);
    addon.send(client, new Uint8Array([1]), netnsFd);
    for (let i = 0; i < 20; i++) {
      addon.netlinkInNetns(netnsFd, false, [0, request, 1000, 0]);
      addon.notifyInNetns(netnsFd, [[12, 7], [0, 1, 8]]).then((ears) => addon.notifyListen(ears, () => {}));
      addon.pollInNetns(netnsFd, 0, request, 1, () => {}).then((poll) => addon.pollFrom(poll, request));
      addon.xtablesInNetns(netnsFd, "4nat\\tA\\n6raw\\n4none\\t", i % 2 === 0, i % 3 ? 0 : 1 << 20, i % 5 === 0);
    }
  `;
  for (let i = 0; i < times; i++) {
    const path = join(folder, `worker-${i}.sock`);
    const worker = new Worker(code, { eval: true, workerData: { path, netnsFd, request } });
    await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    await worker.terminate();
    rmSync(path);
  }
}

function refused(call: () => unknown): void {
  try {
    call();
  } catch {
    return;
  }
  throw new Error(`"${call}" was not refused`);
}

async function settle(): Promise<{ fds: number; rssKb: number; threads: number }> {
  for (let i = 0; i < 5; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const status = readFileSync("/proc/self/status", "utf8");
  return {
    fds: readdirSync("/proc/self/fd").length,
    rssKb: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]),
    threads: Number(/Threads:\s+(\d+)/.exec(status)?.[1]),
  };
}

async function runAll(times: number): Promise<void> {
  await cycleConnections(times);
  cycleSockets(times);
  await cycleNetlink(times);
  await cycleTables(times);
  await cycleNotices(times);
  await cyclePolls(times);
  for (let i = 0; i < times; i++) addon.readTurns(turns, i % 2 === 0);
}

const turns = addon.watchTurns();
refused(() => addon.readTurns({}, true));
refused(() => addon.readTurns(turns));
await cycleWorkers(3);
await runAll(PIPELINE);
const fdsAtStart = (await settle()).fds;
await cycleMistakes(cycles / 50);
// The code compiles and the pools of the allocator fill in the first round.
await runAll(cycles / 5);
const samples = [await settle()];
for (let round = 0; round < ROUNDS; round++) {
  await runAll(cycles);
  samples.push(await settle());
}
console.log(JSON.stringify({ fdsAtStart, samples }));
closeSync(netnsFd);
// Left open on purpose: the end of the process has to cope.
const lastPath = join(folder, "last.sock");
listenSeqpacket(lastPath, {});
connectSeqpacket(lastPath).send(hello);
void netlinkInNetns(0, 0, request).catch(() => {});
process.exit(0);
