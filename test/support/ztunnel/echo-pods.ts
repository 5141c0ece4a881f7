// SPDX-License-Identifier: Apache-2.0
// Two pods of one node beside the stand-in ztunnel; an app in "b" says who called, and the stand-in says which way the call took.
import type { Socket } from "node:net";
import { expect } from "vitest";
import { addresses, type Place, PodNetwork, readAll } from "./pod-network.ts";
import type { StandIn } from "./stand-in.ts";
import { podEntry, ZdsHarness } from "./zds-harness.ts";

/** Where the app listens. */
export const appPort = 8080;

/** Answers with the caller's address and a newline, then with whatever comes. */
export function echo(client: Socket): void {
  client.write(`${client.remoteAddress?.replace("::ffff:", "")}\n`);
  client.pipe(client);
}

/** Nothing is redirected in them yet. Root; namespaces of its own. */
export class EchoPods {
  readonly network: PodNetwork;
  readonly ztunnel: StandIn;
  readonly #harness: ZdsHarness;

  private constructor(network: PodNetwork, ztunnel: StandIn, harness: ZdsHarness) {
    this.network = network;
    this.ztunnel = ztunnel;
    this.#harness = harness;
  }

  /** The stand-in knows both pods and is ready, and the app listens. */
  static async start(): Promise<EchoPods> {
    const network = await PodNetwork.create();
    const harness = new ZdsHarness();
    harness.server.listen();
    for (const place of ["a", "b"] as const) harness.server.hold(podEntry(place, network.netns[place]));
    const ztunnel = await harness.standIn({ depth: "sockets", dns: ["web.shop=10.77.0.3"] });
    await ztunnel.waitForReady();
    await network.listen("b", appPort, echo);
    return new EchoPods(network, ztunnel, harness);
  }

  /** Sends a text through the app, which must come back whole; @returns the address the app saw. */
  async ask(from: Place, family: 4 | 6, text = "hello"): Promise<string> {
    const socket = await this.network.dial(from, { address: addresses.b[family], port: appPort });
    socket.end(text);
    const answer = (await readAll(socket)).toString();
    expect(answer.endsWith(`\n${text}`)).toBe(true);
    return answer.slice(0, -text.length - 1);
  }

  /** How many connections each port of both pods had, "a15001=1 b15008=1". */
  async way(): Promise<string> {
    const { workloads } = await this.ztunnel.stats();
    return Object.entries(workloads)
      .flatMap(([uid, { ports }]) =>
        Object.entries(ports).map(([port, { connections }]) => `${uid}${port}=${connections}`),
      )
      .sort()
      .join(" ");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.network[Symbol.asyncDispose]();
    await this.#harness.close();
  }
}
