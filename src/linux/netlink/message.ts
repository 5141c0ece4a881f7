// SPDX-License-Identifier: Apache-2.0
// Netlink messages and attributes as bytes. Source: netlink(7); linux/netlink.h. Every architecture we build for is little-endian.

/** Flags of a request. Source: netlink(7), nlmsg_flags. */
export const NLM = {
  request: 0x1,
  ack: 0x4,
  replace: 0x100,
  exclusive: 0x200,
  dump: 0x300,
  create: 0x400,
} as const;

const HEADER_BYTES = 16;
const ATTRIBUTE_HEADER_BYTES = 4;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_CAPPED = 0x100;
const NLM_F_ACK_TLVS = 0x200;
const NLMSGERR_ATTR_MSG = 1;
const NLA_TYPE_MASK = 0x3fff;

/** One message to the kernel; `body` is the family's fixed header with its attributes behind it. */
export interface NetlinkRequest {
  readonly type: number;
  /** {@link NLM}; NLM_F_REQUEST is added. */
  readonly flags: number;
  readonly body: Uint8Array;
}

/** One message from the kernel; `body` is a view of what was received. */
export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly body: Uint8Array;
}

/** All the kernel said to one request. */
export interface NetlinkAnswer {
  /** Zero or -errno; undefined if the kernel never answered (it gave up on the batch at an earlier message). */
  readonly error: number | undefined;
  /** The kernel's own words on the error, where it has any. */
  readonly reason: string | undefined;
  /** The objects changed while the kernel listed them: the list may lack some. */
  readonly interrupted: boolean;
  readonly messages: readonly NetlinkMessage[];
}

/** Numbers the requests from 1 and puts them in one buffer. */
export function encodeRequests(requests: readonly NetlinkRequest[]): Uint8Array {
  const bytes = requests.reduce((sum, { body }) => sum + align(HEADER_BYTES + body.length), 0);
  const out = new Uint8Array(bytes);
  const view = new DataView(out.buffer);
  let offset = 0;
  requests.forEach(({ type, flags, body }, index) => {
    view.setUint32(offset, HEADER_BYTES + body.length, true);
    view.setUint16(offset + 4, type, true);
    view.setUint16(offset + 6, flags | NLM.request, true);
    view.setUint32(offset + 8, index + 1, true);
    out.set(body, offset + HEADER_BYTES);
    offset += align(HEADER_BYTES + body.length);
  });
  return out;
}

/** Tells by the place of a message's body whether it is passed over: a view of each takes more memory than the message. */
export type Skip = (
  received: Uint8Array,
  at: { readonly type: number; readonly start: number; readonly end: number },
) => boolean;

/** What was received, one message after the other. @throws RangeError if a length in it is impossible */
export function* eachMessage(received: Uint8Array, isSkipped?: Skip): Generator<NetlinkMessage> {
  const view = viewOf(received);
  for (let offset = 0; offset + HEADER_BYTES <= received.length; ) {
    const length = view.getUint32(offset, true);
    if (length < HEADER_BYTES || offset + length > received.length) {
      throw new RangeError(
        `Cannot decode a netlink message: length ${length} of ${received.length - offset}`,
      );
    }
    const type = view.getUint16(offset + 4, true);
    const [start, end] = [offset + HEADER_BYTES, offset + length];
    if (isSkipped?.(received, { type, start, end }) !== true)
      yield {
        type,
        flags: view.getUint16(offset + 6, true),
        sequence: view.getUint32(offset + 8, true),
        body: received.subarray(start, end),
      };
    offset += align(length);
  }
}

/** Sorts what was received by request; `count` requests were encoded with {@link encodeRequests}. */
export function sortAnswers(count: number, received: Uint8Array, isSkipped?: Skip): NetlinkAnswer[] {
  const answers = Array.from({ length: count }, () => ({
    error: undefined as number | undefined,
    reason: undefined as string | undefined,
    interrupted: false,
    messages: [] as NetlinkMessage[],
  }));
  for (const message of eachMessage(received, isSkipped)) {
    const answer = answers[message.sequence - 1];
    if (answer === undefined) continue;
    if ((message.flags & NLM_F_DUMP_INTR) !== 0) answer.interrupted = true;
    if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) {
      answer.error = message.body.length < 4 ? 0 : viewOf(message.body).getInt32(0, true);
      answer.reason = decodeReason(message);
    } else {
      answer.messages.push(message);
    }
  }
  return answers;
}

function decodeReason({ type, flags, body }: NetlinkMessage): string | undefined {
  if ((flags & NLM_F_ACK_TLVS) === 0) return undefined;
  let offset = 4;
  if (type === NLMSG_ERROR) {
    // Between the errno and the attributes: the header of our request, and the rest of it unless left out.
    if (body.length < 4 + HEADER_BYTES) return undefined;
    offset += (flags & NLM_F_CAPPED) !== 0 ? HEADER_BYTES : align(viewOf(body).getUint32(4, true));
  }
  const text = decodeAttributes(body, offset).get(NLMSGERR_ATTR_MSG);
  return text === undefined ? undefined : decodeString(text);
}

/** Joins a fixed header and attributes into a message body or a nested attribute's value. */
export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}

/** One attribute with its padding. */
export function encodeAttribute(type: number, value: Uint8Array): Uint8Array {
  const out = new Uint8Array(align(ATTRIBUTE_HEADER_BYTES + value.length));
  const view = new DataView(out.buffer);
  view.setUint16(0, ATTRIBUTE_HEADER_BYTES + value.length, true);
  view.setUint16(2, type, true);
  out.set(value, ATTRIBUTE_HEADER_BYTES);
  return out;
}

/** An attribute with a number in host order, as rtnetlink has them. */
export function encodeUint32Attribute(type: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return encodeAttribute(type, bytes);
}

/**
 * Calls `visit` for each attribute between two offsets, in order, with the offsets of its value. Makes no views, which
 * is what costs time in a long dump. Ends at the first impossible length.
 */
export function forEachAttribute(
  bytes: Uint8Array,
  start: number,
  end: number,
  visit: (type: number, start: number, end: number) => void,
): void {
  for (let at = start; at + ATTRIBUTE_HEADER_BYTES <= end; ) {
    const length = readUint16(bytes, at);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > end) return;
    // The upper bits say "nested" and "network order" and are not set by all senders.
    visit(readUint16(bytes, at + 2) & NLA_TYPE_MASK, at + ATTRIBUTE_HEADER_BYTES, at + length);
    at += align(length);
  }
}

/** The attributes by type; of several with one type the last. */
export function decodeAttributes(bytes: Uint8Array, offset = 0): Map<number, Uint8Array> {
  const attributes = new Map<number, Uint8Array>();
  forEachAttribute(bytes, offset, bytes.length, (type, start, end) => {
    attributes.set(type, bytes.subarray(start, end));
  });
  return attributes;
}

/** Host order; undefined if absent or not four bytes long. */
export function decodeUint32(value: Uint8Array | undefined): number | undefined {
  return value?.length === 4 ? viewOf(value).getUint32(0, true) : undefined;
}

/** Text up to the first NUL between two offsets; a byte is a character. */
export function decodeString(bytes: Uint8Array, start = 0, end = bytes.length): string {
  let text = "";
  for (let at = start; at < end && bytes[at] !== 0; at++) text += String.fromCharCode(bytes[at] as number);
  return text;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function readUint16(bytes: Uint8Array, at: number): number {
  return (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
}

function align(length: number): number {
  return (length + 3) & ~3;
}
