// SPDX-License-Identifier: Apache-2.0
// TCP connections between the places of a PodNetwork with both of their ends in a test's hands, and what each end has heard.
import type { Socket } from "node:net";
import { expect } from "vitest";
import { patience } from "../support/node/patience.ts";
import { addresses, type Place, type PodNetwork } from "../support/ztunnel/pod-network.ts";

export const APP_PORT = 8080;
const PATIENCE = { timeout: 5_000 * patience(), interval: 5 } as const;

/** One end of a connection. */
export class StreamEnd {
  text = "";
  /** `open`, `ended` by the other side, or the code of what broke it. */
  state = "open";
  readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.text += chunk.toString();
    });
    socket.on("end", () => {
      if (this.state === "open") this.state = "ended";
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.state = error.code ?? error.message;
    });
  }
}

/** A connection from `client` to `server`, whatever is between them. */
export interface Stream {
  readonly name: string;
  readonly client: StreamEnd;
  readonly server: StreamEnd;
}

/** The apps of a network and the connections to them. */
export class OpenStreams {
  readonly #network: PodNetwork;
  readonly #arrived = new Map<string, StreamEnd>();
  #count = 0;

  constructor(network: PodNetwork) {
    this.#network = network;
  }

  /** An app that says nothing by itself; the first line it hears names the connection. */
  async listen(place: Place): Promise<void> {
    await this.#network.listen(place, APP_PORT, (socket) => {
      const end = new StreamEnd(socket);
      socket.on("data", () => {
        const name = /^hello (\S+)\n/.exec(end.text)?.[1];
        if (name === undefined) return;
        end.text = end.text.slice(`hello ${name}\n`.length);
        this.#arrived.set(name, end);
      });
    });
  }

  /** A connection through which a line has gone. */
  async open(from: Place, to: Place, family: 4 | 6): Promise<Stream> {
    const name = `${from}-${to}-v${family}-${++this.#count}`;
    const socket = await this.#network.dial(from, { address: addresses[to][family], port: APP_PORT });
    const client = new StreamEnd(socket);
    socket.write(`hello ${name}\n`);
    await expect.poll(() => this.#arrived.has(name), PATIENCE).toBe(true);
    return { name, client, server: this.#arrived.get(name) as StreamEnd };
  }

  /** Both families in both directions between two places; `count` times. */
  async openAll(one: Place, other: Place, count = 1): Promise<Stream[]> {
    const streams: Stream[] = [];
    for (let index = 0; index < count; index++) {
      for (const family of [4, 6] as const) {
        streams.push(await this.open(one, other, family), await this.open(other, one, family));
      }
    }
    return streams;
  }
}

/** Each end of each stream hears the other; the client speaks first in every second stream. */
export async function expectAlive(streams: readonly Stream[], word: string): Promise<void> {
  await Promise.all(
    streams.map(async ({ name, client, server }, index) => {
      const [first, second] = Math.floor(index / 4) % 2 === 0 ? [server, client] : [client, server];
      const hears = async (end: StreamEnd, from: StreamEnd) => {
        from.socket.write(`${word};`);
        await expect
          .poll(() => (end.text.endsWith(`${word};`) ? "heard" : end.state), { message: name, ...PATIENCE })
          .toBe("heard");
      };
      await hears(second, first);
      await hears(first, second);
    }),
  );
}

/** The state of an end once it is another than `open`; at the deadline `open`. */
export async function fateOf(end: StreamEnd, waitMs = 5_000): Promise<string> {
  const deadline = performance.now() + waitMs;
  while (end.state === "open" && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 5));
  return end.state;
}
