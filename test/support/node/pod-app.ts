// SPDX-License-Identifier: Apache-2.0
// The application of a pod in tests, served by module-host.ts from inside the pod's network namespace: servers that say
// whom they saw, and clients for HTTP, long-lived TCP and DNS.
import { createSocket } from "node:dgram";
import { createServer as createHttpServer, request } from "node:http";
import { connect, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { hasIpv6 } from "../../../src/linux/host-netns.ts";
import { patience } from "./patience.ts";

/** Where servers listen: on both families, where the kernel has both. */
const isIpv4Only = !hasIpv6();
const anyAddress = isIpv4Only ? "0.0.0.0" : "::";

/** One end of a connection. */
export interface Endpoint {
  /** Without the ::ffff: of IPv4 addresses on a dual-stack socket. */
  readonly address: string;
  readonly port: number;
}

/** What the server of a pod answers to every HTTP request, and notes down for {@link seenRequests}. */
export interface SeenRequest {
  /** The address the server saw as its client. */
  readonly peer: Endpoint;
  /** The address the client reached. */
  readonly local: Endpoint;
  readonly path: string;
  readonly body: string;
  /** What the server has read from this connection, HTTP head included. */
  readonly receivedBytes: number;
}

/** An answer as its client has it. */
export interface Answer extends SeenRequest {
  /** The client's own end of the connection. */
  readonly own: Endpoint;
  /** What the client has written, HTTP head included. */
  readonly sentBytes: number;
  readonly ms: number;
}

/** Where a client goes. */
export interface Target {
  readonly host: string;
  readonly port: number;
  /** Default 3000. */
  readonly timeoutMs?: number;
}

const seen: SeenRequest[] = [];
const streams = new Map<number, Socket>();
let lastStream = 0;
let traffic: { stop: AbortController; report: Promise<TrafficReport> } | undefined;

/** Starts the HTTP server on both families. Answers are JSON: {@link SeenRequest}. */
export async function serveHttp(port: number): Promise<void> {
  const server = createHttpServer(async (incoming, response) => {
    let body = "";
    for await (const chunk of incoming) body += String(chunk);
    const { remoteAddress, remotePort, localAddress, localPort } = incoming.socket;
    const answer: SeenRequest = {
      peer: endpoint(remoteAddress, remotePort),
      local: endpoint(localAddress, localPort),
      path: incoming.url ?? "",
      body,
      receivedBytes: incoming.socket.bytesRead,
    };
    seen.push(answer);
    response.end(JSON.stringify(answer));
  });
  await listening(server.listen(port, anyAddress));
}

/** Starts a TCP server on both families that sends `PEER-ADDRESS PEER-PORT\n` and then everything it receives. */
export async function serveEcho(port: number): Promise<void> {
  const server = createTcpServer((socket) => {
    socket.on("error", () => socket.destroy());
    const peer = endpoint(socket.remoteAddress, socket.remotePort);
    socket.write(`${peer.address} ${peer.port}\n`);
    socket.pipe(socket);
  });
  await listening(server.listen(port, anyAddress));
}

/** Starts a UDP server that answers each datagram with itself, its QR bit set: a DNS server without an answer. */
export async function serveUdp(port: number): Promise<void> {
  const socket = createSocket({ type: isIpv4Only ? "udp4" : "udp6" });
  socket.on("message", (data, from) => {
    const answer = Buffer.from(data);
    if (answer.length > 2) answer.writeUInt8(answer.readUInt8(2) | 0x80, 2);
    socket.send(answer, from.port, from.address);
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("error", reject);
    socket.bind(port, anyAddress, resolve);
  });
}

/** All HTTP requests so far, oldest first. */
export function seenRequests(): SeenRequest[] {
  return seen;
}

/** Number of HTTP requests so far. */
export function seenCount(): number {
  return seen.length;
}

/** One HTTP request on a connection of its own. */
export async function get(
  target: Target & { readonly path?: string; readonly body?: string },
): Promise<Answer> {
  const { host, port, path = "/", body = "", timeoutMs = 3000 * patience() } = target;
  const start = performance.now();
  return new Promise((resolve, reject) => {
    const outgoing = request({ host, port, path, method: body === "" ? "GET" : "POST", agent: false });
    const deadline = setTimeout(
      () =>
        outgoing.destroy(new Error(`Cannot reach "${host}" port ${port}: no answer within ${timeoutMs} ms`)),
      timeoutMs,
    );
    outgoing.on("error", reject);
    outgoing.on("response", async (response) => {
      const { localAddress, localPort, bytesWritten: sentBytes } = response.socket;
      const own = endpoint(localAddress, localPort);
      let text = "";
      for await (const chunk of response) text += String(chunk);
      resolve({ ...(JSON.parse(text) as SeenRequest), own, sentBytes, ms: performance.now() - start });
    });
    outgoing.on("close", () => clearTimeout(deadline));
    outgoing.end(body);
  });
}

/** Opens a connection to {@link serveEcho} that stays; returns its number and the address the server saw. */
export async function openStream(target: Target): Promise<{ stream: number; peer: Endpoint; own: Endpoint }> {
  const socket = connect({ host: target.host, port: target.port });
  const greeting = await nextChunk(socket, target.timeoutMs ?? 3000 * patience());
  const [address = "", port] = greeting.toString().trim().split(" ");
  const stream = ++lastStream;
  // a connection that breaks is found by the next exchange
  socket.on("error", () => {});
  streams.set(stream, socket);
  return {
    stream,
    peer: { address, port: Number(port) },
    own: endpoint(socket.localAddress, socket.localPort),
  };
}

/** Sends text on an open stream and returns the echo. @throws Error when the connection is no more. */
export async function exchange(stream: number, text: string): Promise<string> {
  const socket = streams.get(stream);
  if (socket === undefined || socket.destroyed) throw new Error(`Cannot use stream ${stream}: it is closed`);
  const answer = nextChunk(socket, 3000);
  socket.write(text);
  let received = (await answer).toString();
  while (received.length < text.length) received += (await nextChunk(socket, 3000)).toString();
  return received;
}

/** Closes an open stream. */
export function closeStream(stream: number): void {
  streams.get(stream)?.destroy();
  streams.delete(stream);
}

/** What happened to the requests of {@link startTraffic}. */
export interface TrafficReport {
  readonly sent: number;
  readonly failed: number;
  /** Longest time between two answers, in milliseconds. */
  readonly longestGapMs: number;
  /** Distinct messages of the failures. */
  readonly errors: string[];
}

/** Begins to send one HTTP request after the other, each on a connection of its own, until {@link stopTraffic}. */
export function startTraffic(target: Target & { readonly pauseMs?: number }): void {
  if (traffic !== undefined) throw new Error("Cannot start traffic: it is running");
  const stop = new AbortController();
  traffic = { stop, report: sendUntil(stop.signal, target) };
}

/** Ends the traffic. */
export async function stopTraffic(): Promise<TrafficReport> {
  if (traffic === undefined) throw new Error("Cannot stop traffic: none is running");
  const { stop, report } = traffic;
  traffic = undefined;
  stop.abort();
  return await report;
}

async function sendUntil(
  signal: AbortSignal,
  target: Target & { readonly pauseMs?: number },
): Promise<TrafficReport> {
  let sent = 0;
  let failed = 0;
  let longestGapMs = 0;
  let lastAnswer = performance.now();
  const errors = new Set<string>();
  while (!signal.aborted) {
    sent += 1;
    try {
      await get(target);
      longestGapMs = Math.max(longestGapMs, performance.now() - lastAnswer);
      lastAnswer = performance.now();
    } catch (error) {
      failed += 1;
      errors.add((error as Error).message);
    }
    await delay(target.pauseMs ?? 5);
  }
  return { sent, failed, longestGapMs, errors: [...errors] };
}

/** A DNS question. */
export interface DnsQuestion {
  readonly server: string;
  readonly name: string;
  readonly transport: "udp" | "tcp";
  /** Record type, default 1 (A). */
  readonly type?: number;
  /** Default 53. */
  readonly port?: number;
  /** Default 3000. */
  readonly timeoutMs?: number;
}

/** Asks a DNS question and returns the bytes of the answer, without TCP's length prefix. */
export async function dnsQuery(question: DnsQuestion): Promise<{ answer: Uint8Array; from: Endpoint }> {
  const { server, transport, port = 53, timeoutMs = 3000 * patience() } = question;
  const message = dnsMessage(question.name, question.type ?? 1);
  if (transport === "tcp") {
    const socket = connect({ host: server, port });
    socket.write(Buffer.concat([Buffer.from([message.length >> 8, message.length & 0xff]), message]));
    const packet = await nextChunk(socket, timeoutMs);
    const from = endpoint(socket.remoteAddress, socket.remotePort);
    socket.destroy();
    return { answer: packet.subarray(2), from };
  }
  const socket = createSocket(server.includes(":") ? "udp6" : "udp4");
  try {
    return await new Promise((resolve, reject) => {
      const expire = () => reject(new Error(`Cannot ask "${server}": no answer within ${timeoutMs} ms`));
      const deadline = setTimeout(expire, timeoutMs);
      socket.once("error", reject);
      socket.once("message", (answer, from) => {
        clearTimeout(deadline);
        resolve({ answer, from: endpoint(from.address, from.port) });
      });
      socket.send(message, port, server);
    });
  } finally {
    socket.close();
  }
}

/** A query with recursion desired and a fixed id. Source: RFC 1035, section 4.1. */
function dnsMessage(name: string, type: number): Buffer {
  const labels = name.split(".").filter(Boolean);
  const question = labels.flatMap((label) => [label.length, ...Buffer.from(label)]);
  return Buffer.from([
    0x12,
    0x34,
    1,
    0,
    0,
    1,
    0,
    0,
    0,
    0,
    0,
    0,
    ...question,
    0,
    type >> 8,
    type & 0xff,
    0,
    1,
  ]);
}

function endpoint(address: string | undefined, port: number | undefined): Endpoint {
  return { address: (address ?? "").replace(/^::ffff:(?=[\d.]+$)/, ""), port: port ?? 0 };
}

async function listening(server: Server): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("listening", () => resolve());
    server.once("error", (error: Error) => reject(error));
  });
}

/** The next bytes of a connection. @throws Error when it closes or the deadline passes first. */
async function nextChunk(socket: Socket, timeoutMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (outcome: () => void): void => {
      clearTimeout(deadline);
      socket.off("data", onData).off("error", onError).off("close", onClose);
      outcome();
    };
    const onData = (data: Buffer): void => settle(() => resolve(data));
    const onError = (error: Error): void => settle(() => reject(error));
    const onClose = (): void => settle(() => reject(new Error("The connection was closed")));
    const expire = (): void => settle(() => reject(new Error(`No data within ${timeoutMs} ms`)));
    const deadline = setTimeout(expire, timeoutMs);
    socket.on("data", onData).on("error", onError).on("close", onClose);
  });
}
