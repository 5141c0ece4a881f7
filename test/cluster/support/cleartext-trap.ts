// SPDX-License-Identifier: Apache-2.0
// Sees every connection that begins between two pods in clear: what a mesh pod must never do.
import { ManagedProcess } from "../../support/node/managed-process.ts";
import { appPort } from "./workloads.ts";

/** SYN without ACK to the applications' port, of both families. Source: pcap-filter(7). */
const filter =
  `dst port ${appPort} and ((ip and tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn) or ` +
  "(ip6 and ip6[6] = 6 and ip6[53] & 0x12 = 0x02))";

/** A connection that began. */
export interface Cleartext {
  readonly from: string;
  readonly to: string;
  /** Time of day. */
  readonly atMs: number;
  readonly line: string;
}

/** Listens on all links of the node, those to come included; the node's own connections (probes) are let pass. */
export class CleartextTrap extends ManagedProcess {
  readonly #ownAddresses: ReadonlySet<string>;

  private constructor(ownAddresses: ReadonlySet<string>) {
    super(["tcpdump", "-n", "-l", "-tt", "--immediate-mode", "-Z", "root", "-i", "any", filter], {
      name: "trap",
    });
    this.#ownAddresses = ownAddresses;
  }

  /** Nothing is missed from the return on. @param ownAddresses the node's, from which the kubelet probes */
  static async start(ownAddresses: readonly string[]): Promise<CleartextTrap> {
    const trap = new CleartextTrap(new Set(ownAddresses));
    await trap.untilLine("to listen", ({ text }) => text.includes("listening on"));
    return trap;
  }

  /** Number of lines so far; for `caught`. */
  get mark(): number {
    return this.lines.length;
  }

  /** What was caught since a mark. @throws Error when nobody listens any more. Each connection is there once for each link that it passed. */
  caught(mark: number): Cleartext[] {
    if (!this.running) throw new Error(`the trap has ended: ${this.lines.at(-1)?.text}`);
    return this.lines.slice(mark).flatMap(({ text }) => {
      const [, time, from, to] = /^(\S+) .*IP6? (\S+)\.\d+ > (\S+)\.\d+: /.exec(text) ?? [];
      if (from === undefined || to === undefined || this.#ownAddresses.has(from)) return [];
      return [{ from, to, atMs: Number(time) * 1000, line: text }];
    });
  }
}
