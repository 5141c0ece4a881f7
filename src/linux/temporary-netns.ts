// SPDX-License-Identifier: Apache-2.0
// A network namespace of our own to try things in: nothing but our descriptor keeps it, so it ends with us however we end.
import { spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import { netnsKeyAt } from "./host-netns.ts";
import { check, exchange } from "./netlink/exchange.ts";
import { NLM } from "./netlink/message.ts";
import { Netns } from "./netns.ts";

/** No namespace could be made; the message has cause and remedy. */
export class ThrowawayError extends Error {
  override readonly name = "ThrowawayError";
}

const DEADLINE_MS = 2_000;
const POLL_MS = 1;

// Source: linux/rtnetlink.h, RTM_NEWLINK; linux/if.h, IFF_UP.
const NETLINK_ROUTE = 0;
const RTM_NEWLINK = 16;
const IFF_UP = 1;

/**
 * Makes a namespace with its loopback device up.
 * @param tool a program of `path` that reads its input to the end: it holds the namespace until it is opened
 * @returns a handle that belongs to the caller @throws {ThrowawayError}
 */
export async function makeThrowawayNetns(options: {
  readonly path: string;
  readonly tool: readonly [string, ...string[]];
}): Promise<Netns> {
  const { path, tool } = options;
  const own = netnsKeyAt("/proc/self/ns/net");
  const holder = spawn("unshare", ["--net", "--", ...tool], {
    env: { PATH: path },
    stdio: ["pipe", "ignore", "ignore"],
  });
  let problem: string | undefined;
  holder.on("error", (error: NodeJS.ErrnoException) => {
    problem =
      error.code === "ENOENT"
        ? "the program unshare (util-linux) is not in PATH; use an agent image that holds it"
        : error.message;
  });
  holder.on("exit", () => {
    problem ??= "unshare ended at once: it takes the capability SYS_ADMIN";
  });
  holder.stdin?.on("error", () => {});
  try {
    const deadline = performance.now() + DEADLINE_MS;
    for (;;) {
      const key = holder.pid === undefined ? undefined : keyOf(holder.pid);
      if (key !== undefined && key !== own) break;
      if (performance.now() > deadline) problem ??= `no namespace within ${DEADLINE_MS} ms`;
      if (problem !== undefined)
        throw new ThrowawayError(`Cannot make a network namespace to try rules in: ${problem}`);
      await delay(POLL_MS);
    }
    const netns = Netns.open(`/proc/${holder.pid}/ns/net`);
    try {
      await raiseLoopback(netns.fd);
      return netns;
    } catch (error) {
      netns.close();
      throw error;
    }
  } finally {
    holder.stdin?.end();
    holder.kill("SIGKILL");
  }
}

function keyOf(pid: number): string | undefined {
  try {
    return netnsKeyAt(`/proc/${pid}/ns/net`);
  } catch {
    return undefined;
  }
}

async function raiseLoopback(netnsFd: number): Promise<void> {
  // struct ifinfomsg: u8 family, u8 pad, u16 type, s32 index, u32 flags, u32 change
  const body = new Uint8Array(16);
  const view = new DataView(body.buffer);
  view.setInt32(4, 1, true);
  view.setUint32(8, IFF_UP, true);
  view.setUint32(12, IFF_UP, true);
  const [answer] = await exchange(netnsFd, NETLINK_ROUTE, [
    { type: RTM_NEWLINK, flags: NLM.request | NLM.ack, body },
  ]);
  if (answer !== undefined) check("bring up a loopback device", answer);
}
