// SPDX-License-Identifier: Apache-2.0
// HBONE between pods: tunnels (HTTP/2 CONNECT) over connections to the other pod's 15008 that outlive their tunnels.
// HTTP/2 in clear where ztunnel has it in TLS; who is connected to whom, and for how long, is the same.
// Source: istio/ztunnel src/proxy/h2, src/proxy/pool.rs; measured with the real one.
import http2, { type ClientHttp2Session, type ClientHttp2Stream, type ServerHttp2Session } from "node:http2";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { endInOrder } from "./end-in-order.ts";
import type { Endpoint } from "./netlink-query.ts";

const { NGHTTP2_CONNECT_ERROR, NGHTTP2_REFUSED_STREAM } = http2.constants;
/** Tunnels of one connection. */
const maxStreams = 100;
const connectionWindowBytes = 16 << 20;
const settings = { initialWindowSize: 4 << 20, maxConcurrentStreams: maxStreams };

/** One CONNECT that came in: exactly one of the two is to be called. */
export interface TunnelRequest {
  readonly target: Endpoint;
  /** Answers 200; the stream is the client's from here on. */
  accept(): Duplex;
  /** Answers with this status. */
  refuse(status: number): void;
}

/** Serves a connection to 15008; it ends by itself when it speaks anything else. */
export function serveHbone(socket: Socket, ontunnel: (request: TunnelRequest) => void): ServerHttp2Session {
  const session = http2.performServerHandshake(socket, { settings });
  session.on("error", () => {});
  session.setLocalWindowSize(connectionWindowBytes);
  session.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    const refuse = (status: number): void => {
      if (!stream.destroyed) stream.respond({ ":status": status }, { endStream: true });
    };
    const target = parseAuthority(headers[":method"], headers[":authority"]);
    if (target === undefined) return refuse(400);
    const accept = (): Duplex => {
      if (!stream.destroyed) stream.respond({ ":status": 200 });
      return stream;
    };
    ontunnel({ target, accept, refuse });
  });
  return session;
}

interface Way {
  readonly session: Promise<ClientHttp2Session>;
  open: ClientHttp2Session | undefined;
  streams: number;
}

/** The other side went away before it had taken the request: it may be sent again. */
class NotTaken extends Error {
  override readonly name = "NotTaken";
}

/** A pod's connections to other pods' 15008, kept when their tunnels have ended. */
export class HbonePool {
  readonly #dial: (address: string) => Promise<Socket>;
  readonly #ways = new Map<string, Way[]>();

  /** `dial` connects to port 15008 of an address from inside the pod. */
  constructor(dial: (address: string) => Promise<Socket>) {
    this.#dial = dial;
  }

  /** Connections there are, in use or idle. */
  get size(): number {
    let size = 0;
    for (const ways of this.#ways.values()) size += ways.length;
    return size;
  }

  /** Opens a tunnel. @throws Error when there is no way to the other pod, or it refuses */
  async open(target: Endpoint): Promise<Duplex> {
    try {
      return await this.#openOnce(target);
    } catch (error) {
      if (!(error instanceof NotTaken)) throw error;
      return this.#openOnce(target);
    }
  }

  /** Lets the tunnels end and the connections with them; new tunnels get new connections. */
  drain(): void {
    for (const { open } of this.#takeAll()) open?.close();
  }

  /** Ends everything at once. */
  close(): void {
    for (const { open } of this.#takeAll()) open?.destroy();
  }

  #takeAll(): Way[] {
    const ways = [...this.#ways.values()].flat();
    this.#ways.clear();
    return ways;
  }

  async #openOnce(target: Endpoint): Promise<Duplex> {
    const way = this.#wayTo(target.address);
    way.streams++;
    let stream: ClientHttp2Stream;
    try {
      stream = requestTunnel(await way.session, target);
    } catch (error) {
      way.streams--;
      throw error;
    }
    stream.once("close", () => way.streams--);
    return answered(stream);
  }

  #wayTo(address: string): Way {
    const ways = this.#ways.get(address) ?? [];
    const found = ways.find(({ streams, open }) => streams < maxStreams && open?.closed !== true);
    if (found !== undefined) return found;
    const way: Way = {
      session: this.#connect(address, () => this.#drop(address, way)),
      open: undefined,
      streams: 0,
    };
    way.session.then(
      (session) => {
        way.open = session;
      },
      () => this.#drop(address, way),
    );
    this.#ways.set(address, [...ways, way]);
    return way;
  }

  async #connect(address: string, ongone: () => void): Promise<ClientHttp2Session> {
    const socket = await this.#dial(address);
    const session = http2.connect("http://hbone", { createConnection: () => socket, settings });
    session.on("error", ongone);
    session.once("goaway", ongone);
    session.once("close", ongone);
    session.once("connect", () => session.setLocalWindowSize(connectionWindowBytes));
    return session;
  }

  #drop(address: string, way: Way): void {
    const rest = (this.#ways.get(address) ?? []).filter((other) => other !== way);
    if (rest.length > 0) this.#ways.set(address, rest);
    else this.#ways.delete(address);
  }
}

function requestTunnel(session: ClientHttp2Session, { address, port }: Endpoint): ClientHttp2Stream {
  if (session.closed || session.destroyed) throw new NotTaken("the connection has ended");
  const host = address.includes(":") ? `[${address}]` : address;
  const stream = session.request({ ":method": "CONNECT", ":authority": `${host}:${port}` });
  stream.on("error", () => {});
  return stream;
}

async function answered(stream: ClientHttp2Stream): Promise<Duplex> {
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  stream.once("response", ({ ":status": status }) => {
    if (status === 200) return resolve(stream);
    stream.close();
    reject(new Error(`the other pod's ztunnel answered ${status}`));
  });
  stream.once("close", () => {
    const refused = stream.rstCode === NGHTTP2_REFUSED_STREAM;
    reject(refused ? new NotTaken("the stream was refused") : new Error("the other pod's ztunnel is gone"));
  });
  return promise;
}

/** Breaks a tunnel or a connection off where it stands. */
export function breakOff(stream: Duplex): void {
  if ("rstCode" in stream) (stream as ClientHttp2Stream).close(NGHTTP2_CONNECT_ERROR);
  else endInOrder(stream as Socket);
}

/** True when the stream ended otherwise than by the end of both its directions. */
function isBroken(stream: Duplex): boolean {
  const code = "rstCode" in stream ? (stream as ClientHttp2Stream).rstCode : 0;
  return stream.errored !== null || !stream.readableEnded || code !== 0;
}

/** Joins two: bytes and half-closes go from each to the other, and the end of one is the end of both. */
export function couple(one: Duplex, other: Duplex): void {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.pipe(to);
    from.once("close", () => {
      if (isBroken(from)) breakOff(to);
    });
  }
}

function parseAuthority(method: unknown, authority: unknown): Endpoint | undefined {
  if (method !== "CONNECT" || typeof authority !== "string") return undefined;
  const [, v6, v4, port] = /^(?:\[([0-9a-f:]+)\]|([0-9.]+)):(\d+)$/i.exec(authority) ?? [];
  const address = v6 ?? v4;
  return address === undefined ? undefined : { address, port: Number(port) };
}
