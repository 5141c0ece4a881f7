// SPDX-License-Identifier: Apache-2.0
// What a pod asks and the mesh does not know, passed on to ztunnel's own nameservers from inside the pod.
// Source: istio/ztunnel src/dns/server.rs; times measured with the real one.
import { randomInt } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { readFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { socketInNetns } from "../../../src/linux/native.ts";
import { ztunnelMark } from "./pod-sockets.ts";

const repeatMs = 1_000;
/** ztunnel says SERVFAIL then; no client waits that long. */
const patienceMs = 15_000;

/** Nameservers of /etc/resolv.conf, none when there is no such file. */
export function systemNameservers(path = "/etc/resolv.conf"): string[] {
  try {
    const text = readFileSync(path, "utf8");
    return [...text.matchAll(/^nameserver\s+(\S+)/gm)].map(([, address]) => address as string);
  } catch {
    return [];
  }
}

/** Asks on behalf of one pod, each time from a marked UDP socket of its own in the pod's namespace. */
export class DnsForwarder {
  readonly #netnsFd: number;
  readonly #nameservers: readonly string[];
  readonly #open = new Map<Socket, (answer: Buffer | undefined) => void>();

  constructor(netnsFd: number, nameservers: readonly string[]) {
    this.#netnsFd = netnsFd;
    this.#nameservers = nameservers;
  }

  /** @returns the first answer of any nameserver with the id of the query, undefined when none comes */
  async forward(query: Buffer): Promise<Buffer | undefined> {
    const asked = Buffer.from(query);
    asked.writeUInt16BE(randomInt(0x10000), 0);
    const families = new Set(this.#nameservers.map(familyOf));
    const { promise, resolve } = Promise.withResolvers<Buffer | undefined>();
    const sockets = [...families].map(
      (family) => [family, this.#socket(family, { asked, resolve })] as const,
    );
    const ask = (): void => {
      for (const nameserver of this.#nameservers) {
        const socket = sockets.find(([family]) => family === familyOf(nameserver))?.[1];
        socket?.send(asked, 53, nameserver, () => {});
      }
    };
    ask();
    const repeat = setInterval(ask, repeatMs);
    const patience = setTimeout(() => resolve(undefined), patienceMs);
    const answer = await promise;
    clearInterval(repeat);
    clearTimeout(patience);
    for (const [, socket] of sockets) this.#closeOne(socket);
    answer?.set(query.subarray(0, 2));
    return answer;
  }

  /** Ends what is under way; those who wait get nothing. */
  close(): void {
    for (const resolve of this.#open.values()) resolve(undefined);
    for (const socket of this.#open.keys()) this.#closeOne(socket);
  }

  #socket(
    family: 4 | 6,
    { asked, resolve }: { asked: Buffer; resolve: (answer: Buffer | undefined) => void },
  ): Socket {
    const fd = socketInNetns(this.#netnsFd, { family, type: "dgram", port: 0, mark: ztunnelMark });
    const socket = createSocket(family === 4 ? "udp4" : "udp6");
    // nobody there is no answer either
    socket.on("error", () => {});
    socket.on("message", (answer, { address }) => {
      const isAnswer = answer.length >= 2 && answer.readUInt16BE(0) === asked.readUInt16BE(0);
      if (isAnswer && this.#nameservers.includes(address)) resolve(answer);
    });
    socket.bind({ fd });
    this.#open.set(socket, resolve);
    return socket;
  }

  #closeOne(socket: Socket): void {
    if (this.#open.delete(socket)) socket.close();
  }
}

function familyOf(address: string): 4 | 6 {
  return isIPv6(address) ? 6 : 4;
}
