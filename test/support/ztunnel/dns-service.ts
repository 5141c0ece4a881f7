// SPDX-License-Identifier: Apache-2.0
// DNS as a pod sees it from ztunnel: A and AAAA from a small table, over UDP and TCP; everything else is passed on.
// Source: RFC 1035; istio/ztunnel src/dns/server.rs.
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { createServer, isIPv6, type Server, type Socket } from "node:net";
import { backlog, type PodSockets } from "./pod-sockets.ts";

/** Addresses by name (lower case, no final dot). */
export type DnsTable = ReadonlyMap<string, readonly string[]>;

const typeA = 1;
const typeAaaa = 28;
const rcode = { ok: 0, formatError: 1, serverFailure: 2 } as const;
const headerBytes = 12;

/** What the DNS of one pod needs besides its sockets. */
export interface DnsServiceOptions {
  readonly table: DnsTable;
  readonly onquery: () => void;
  /** False when ztunnel does not know the pod, which is an answer too. */
  readonly untilKnown: () => Promise<boolean>;
  /** Asks somebody else; undefined when nobody answers. */
  readonly forward: (query: Buffer) => Promise<Buffer | undefined>;
}

/** Answers on a pod's DNS sockets, which it owns from the constructor on. */
export class DnsService {
  readonly #options: DnsServiceOptions;
  readonly #servers: Server[] = [];
  readonly #udp: UdpSocket[] = [];
  readonly #clients = new Set<Socket>();
  #closed = false;

  constructor({ dnsTcp, dnsUdp }: PodSockets, options: DnsServiceOptions) {
    this.#options = options;
    for (const fd of dnsTcp) {
      const server = createServer({ allowHalfOpen: true }, (client) => this.#serveTcp(client));
      server.listen({ fd }, backlog);
      this.#servers.push(server);
    }
    for (const { fd, family } of dnsUdp) {
      const socket = createSocket(family === 4 ? "udp4" : "udp6");
      socket.on("error", () => {});
      socket.on("message", async (query, { port, address }) => {
        const answer = await this.#answer(query);
        if (answer !== undefined && !this.#closed) socket.send(answer, port, address);
      });
      socket.bind({ fd });
      this.#udp.push(socket);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const server of this.#servers) server.close();
    for (const socket of this.#udp) socket.close();
    for (const client of this.#clients) client.destroy();
  }

  /** Over TCP each message has its length in front; a client that has ended still gets its answers. */
  #serveTcp(client: Socket): void {
    let buffered = Buffer.alloc(0);
    let answers = Promise.resolve();
    this.#clients.add(client);
    client.on("error", () => {});
    client.once("close", () => this.#clients.delete(client));
    client.on("data", (chunk) => {
      buffered = Buffer.concat([buffered, chunk]);
      while (buffered.length >= 2 && buffered.length >= 2 + buffered.readUInt16BE(0)) {
        const end = 2 + buffered.readUInt16BE(0);
        const query = buffered.subarray(2, end);
        buffered = buffered.subarray(end);
        answers = answers.then(() => this.#answerTcp(client, query));
      }
    });
    client.once("end", () => void answers.then(() => client.end()));
  }

  async #answerTcp(client: Socket, query: Buffer): Promise<void> {
    const answer = await this.#answer(query);
    if (answer === undefined) client.destroy();
    else client.write(Buffer.concat([Uint8Array.of(answer.length >> 8, answer.length & 0xff), answer]));
  }

  /** @returns undefined for what is no query at all */
  async #answer(query: Buffer): Promise<Buffer | undefined> {
    if (query.length < headerBytes) return undefined;
    const { table, onquery, untilKnown, forward } = this.#options;
    onquery();
    const known = await untilKnown();
    return (
      (known ? (answerQuery(query, table) ?? (await forward(query))) : undefined) ?? serverFailure(query)
    );
  }
}

/** Makes the answer to one query; undefined for names and questions the table has nothing to say about. */
export function answerQuery(query: Buffer, table: DnsTable): Buffer | undefined {
  const question = readQuestion(query);
  if (question === undefined) return response(query, { code: rcode.formatError, question: Buffer.alloc(0) });
  const { name, type, bytes } = question;
  const isQuery = (query.readUInt16BE(2) & 0xf800) === 0;
  const addresses = isQuery && (type === typeA || type === typeAaaa) ? table.get(name) : undefined;
  if (addresses === undefined) return undefined;
  const records = addresses.filter((address) => isIPv6(address) === (type === typeAaaa)).map(record);
  return response(query, { code: rcode.ok, question: bytes, records });
}

function serverFailure(query: Buffer): Buffer {
  const question = readQuestion(query)?.bytes ?? Buffer.alloc(0);
  return response(query, { code: rcode.serverFailure, question });
}

function response(
  query: Buffer,
  { code, question, records = [] }: { code: number; question: Buffer; records?: Buffer[] },
): Buffer {
  const header = Buffer.alloc(headerBytes);
  query.copy(header, 0, 0, 4);
  // response, authoritative, recursion available, the query's opcode and wish for recursion kept
  header.writeUInt16BE(0x8480 | (query.readUInt16BE(2) & 0x7900) | code, 2);
  header.writeUInt16BE(question.length === 0 ? 0 : 1, 4);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, question, ...records]);
}

/** A or AAAA record for the name of the question (a pointer to offset 12). */
function record(address: string): Buffer {
  const data = isIPv6(address) ? ipv6Bytes(address) : Buffer.from(address.split(".").map(Number));
  const head = Buffer.alloc(12);
  head.writeUInt16BE(0xc000 | headerBytes, 0);
  head.writeUInt16BE(isIPv6(address) ? typeAaaa : typeA, 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt32BE(30, 6);
  head.writeUInt16BE(data.length, 10);
  return Buffer.concat([head, data]);
}

function ipv6Bytes(address: string): Buffer {
  const [left = [], right = []] = address
    .split("::")
    .map((side) => side.split(":").filter((group) => group !== ""));
  const groups = [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right];
  const bytes = Buffer.alloc(16);
  for (const [index, group] of groups.entries()) bytes.writeUInt16BE(Number.parseInt(group, 16), index * 2);
  return bytes;
}

function readQuestion(query: Buffer): { name: string; type: number; bytes: Buffer } | undefined {
  if (query.readUInt16BE(4) !== 1) return undefined;
  const labels: string[] = [];
  let at = headerBytes;
  for (;;) {
    const length = query[at];
    if (length === undefined || length > 63 || at + 1 + length > query.length) return undefined;
    at++;
    if (length === 0) break;
    labels.push(query.toString("latin1", at, at + length).toLowerCase());
    at += length;
  }
  if (at + 4 > query.length) return undefined;
  return { name: labels.join("."), type: query.readUInt16BE(at), bytes: query.subarray(headerBytes, at + 4) };
}
