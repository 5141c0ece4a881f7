// SPDX-License-Identifier: Apache-2.0
// Captures what really passes an interface of a namespace, with tcpdump, and reads the TCP segments out of it.
import { readFile } from "node:fs/promises";
import { ManagedProcess } from "./managed-process.ts";

/** A TCP segment that passed. */
export interface Segment {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
  /** SYN without ACK: the beginning of a connection. */
  readonly opens: boolean;
  readonly payload: Buffer;
}

/** A running capture of all TCP on one interface. */
export class PacketCapture extends ManagedProcess {
  readonly #file: string;

  private constructor(netns: string, at: { interfaceName: string; file: string }) {
    const tcpdump = [
      "tcpdump",
      "-n",
      "-U",
      "--immediate-mode",
      "-Z",
      "root",
      "-i",
      at.interfaceName,
      "-w",
      at.file,
      "tcp",
    ];
    super(["nsenter", `--net=${netns}`, "--", ...tcpdump], { name: "tcpdump" });
    this.#file = at.file;
  }

  /**
   * Starts to capture; from the return on nothing is missed.
   *
   * @param at.file where the packets go meanwhile, on the node's scratch folder.
   */
  static async start(netns: string, at: { interfaceName: string; file: string }): Promise<PacketCapture> {
    const capture = new PacketCapture(netns, at);
    await capture.untilLine("to listen", (line) => line.text.includes("listening on"));
    return capture;
  }

  /** Waits until a segment matches, ends the capture, and returns all segments. */
  async finish(what: string, matches: (segment: Segment) => boolean): Promise<Segment[]> {
    await this.until(what, async () => readSegments(await readFile(this.#file)).some(matches));
    await this.stop();
    return readSegments(await readFile(this.#file));
  }
}

/**
 * Reads the TCP segments of a capture file with Ethernet headers; what is no TCP, or was not written in full yet, is left out.
 *
 * Source: pcap-savefile(5); RFC 791, 8200 and 9293.
 */
export function readSegments(file: Buffer): Segment[] {
  const segments: Segment[] = [];
  for (let at = 24; at + 16 <= file.length; ) {
    const length = file.readUInt32LE(at + 8);
    const frame = file.subarray(at + 16, at + 16 + length);
    at += 16 + length;
    if (frame.length < length) break;
    const segment = readFrame(frame);
    if (segment !== undefined) segments.push(segment);
  }
  return segments;
}

function readFrame(frame: Buffer): Segment | undefined {
  const tcp = 6;
  const type = frame.readUInt16BE(12);
  const packet = frame.subarray(14);
  if (type === 0x0800 && packet[9] === tcp) {
    const headerBytes = ((packet[0] ?? 0) & 0xf) * 4;
    const text = (from: number): string => packet.subarray(from, from + 4).join(".");
    // Ethernet pads short packets, so the packet's own length counts
    const body = packet.subarray(headerBytes, packet.readUInt16BE(2));
    return readSegment(body, { source: text(12), destination: text(16) });
  }
  if (type === 0x86dd && packet[6] === tcp) {
    const body = packet.subarray(40, 40 + packet.readUInt16BE(4));
    return readSegment(body, {
      source: ipv6Text(packet.subarray(8, 24)),
      destination: ipv6Text(packet.subarray(24, 40)),
    });
  }
  return undefined;
}

function readSegment(body: Buffer, ends: { source: string; destination: string }): Segment {
  const flags = body[13] ?? 0;
  return {
    ...ends,
    sourcePort: body.readUInt16BE(0),
    destinationPort: body.readUInt16BE(2),
    opens: (flags & 0x12) === 0x02,
    payload: body.subarray(((body[12] ?? 0) >> 4) * 4),
  };
}

/** Source: RFC 5952; the URL parser knows how to shorten. */
function ipv6Text(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}
