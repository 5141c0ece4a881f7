// SPDX-License-Identifier: Apache-2.0
// DNS as a pod sees it from ztunnel: A and AAAA from a small table, over UDP and TCP.
// Source: RFC 1035; istio/ztunnel src/dns/server.rs.
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { createServer, isIPv6, type Server, type Socket } from "node:net";
import type { PodSockets } from "./pod-sockets.ts";

/** Addresses by name (lower case, no final dot). */
export type DnsTable = ReadonlyMap<string, readonly string[]>;

const typeA = 1;
const typeAaaa = 28;
const rcode = { ok: 0, formatError: 1, noSuchName: 3, refused: 5 } as const;
const headerBytes = 12;

/** Answers on a pod's DNS sockets, which it owns from the constructor on. */
export class DnsService {
  readonly #table: DnsTable;
  readonly #onquery: () => void;
  readonly #servers: Server[] = [];
  readonly #udp: UdpSocket[] = [];
  readonly #clients = new Set<Socket>();

  constructor({ dnsTcp, dnsUdp }: PodSockets, options: { table: DnsTable; onquery: () => void }) {
    this.#table = options.table;
    this.#onquery = options.onquery;
    for (const fd of dnsTcp) {
      const server = createServer((client) => this.#serveTcp(client));
      server.listen({ fd });
      this.#servers.push(server);
    }
    for (const { fd, family } of dnsUdp) {
      const socket = createSocket(family === 4 ? "udp4" : "udp6");
      socket.on("error", () => {});
      socket.on("message", (query, peer) => {
        const answer = this.#answer(query);
        if (answer !== undefined) socket.send(answer, peer.port, peer.address);
      });
      socket.bind({ fd });
      this.#udp.push(socket);
    }
  }

  close(): void {
    for (const server of this.#servers) server.close();
    for (const socket of this.#udp) socket.close();
    for (const client of this.#clients) client.destroy();
  }

  /** Over TCP each message has its length in front. */
  #serveTcp(client: Socket): void {
    let buffered = Buffer.alloc(0);
    this.#clients.add(client);
    client.on("error", () => {});
    client.once("close", () => this.#clients.delete(client));
    client.on("data", (chunk) => {
      buffered = Buffer.concat([buffered, chunk]);
      while (buffered.length >= 2 && buffered.length >= 2 + buffered.readUInt16BE(0)) {
        const end = 2 + buffered.readUInt16BE(0);
        const answer = this.#answer(buffered.subarray(2, end));
        buffered = buffered.subarray(end);
        if (answer === undefined) client.destroy();
        else client.write(Buffer.concat([Uint8Array.of(answer.length >> 8, answer.length & 0xff), answer]));
      }
    });
  }

  #answer(query: Buffer): Buffer | undefined {
    if (query.length < headerBytes) return undefined;
    this.#onquery();
    return answerQuery(query, this.#table);
  }
}

/** Makes the answer to one query: records of the table, NXDOMAIN for other names, REFUSED for other questions. */
export function answerQuery(query: Buffer, table: DnsTable): Buffer {
  const question = readQuestion(query);
  if (question === undefined) return response(query, { code: rcode.formatError, question: Buffer.alloc(0) });
  const { name, type, bytes } = question;
  const isQuery = (query.readUInt16BE(2) & 0xf800) === 0;
  if (!isQuery || (type !== typeA && type !== typeAaaa)) {
    return response(query, { code: rcode.refused, question: bytes });
  }
  const addresses = table.get(name);
  if (addresses === undefined) return response(query, { code: rcode.noSuchName, question: bytes });
  const records = addresses.filter((address) => isIPv6(address) === (type === typeAaaa)).map(record);
  return response(query, { code: rcode.ok, question: bytes, records });
}

function response(
  query: Buffer,
  { code, question, records = [] }: { code: number; question: Buffer; records?: Buffer[] },
): Buffer {
  const header = Buffer.alloc(headerBytes);
  query.copy(header, 0, 0, 4);
  // response, recursion available, the query's opcode and wish for recursion kept
  header.writeUInt16BE(0x8080 | (query.readUInt16BE(2) & 0x7900) | code, 2);
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
