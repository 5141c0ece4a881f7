// SPDX-License-Identifier: Apache-2.0
// One HTTP request, gathered as bytes before anything is made of it: what is too much is known while it is only bytes.

export interface RequestLimits {
  /** Of request line and headers. */
  readonly maxHeadBytes: number;
  /** Of the body; 0: there may be none. */
  readonly maxBodyBytes: number;
}

/** What the bytes so far are. */
export type Gathered = { readonly kind: "more" } | { readonly kind: "whole" } | Refused;

/** Why they are no request for us, and the status that says so. */
export interface Refused {
  readonly kind: "refused";
  readonly status: 400 | 411 | 413 | 431;
  readonly reason: string;
}

const headEnd = "\r\n\r\n";
const more = { kind: "more" } as const;

/**
 * Takes bytes until they are one whole request, or can be none. Nothing may follow the request: no client that we serve sends a
 * second one before it has its answer. Whether it is good HTTP is the parser's to say, who is given no byte more than this.
 * Source: RFC 9112, sections 2.1, 6.2 and 9.3.2.
 */
export class RequestBytes {
  readonly #limits: RequestLimits;
  #chunks: Buffer[] = [];
  #size = 0;
  /** Of head and body, once the head is there. */
  #wholeSize: number | undefined;

  constructor(limits: RequestLimits) {
    this.#limits = limits;
  }

  /** All bytes so far. */
  get bytes(): Buffer {
    return Buffer.concat(this.#chunks, this.#size);
  }

  /** Takes what has come; after "whole" or "refused" there is nothing more to take. */
  take(chunk: Buffer): Gathered {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#wholeSize === undefined) {
      const fault = this.#lookForHead();
      if (fault !== undefined) return fault;
    }
    if (this.#wholeSize === undefined || this.#size < this.#wholeSize) return more;
    if (this.#size === this.#wholeSize) return { kind: "whole" };
    return refused(400, "one request at a time, and nothing behind it");
  }

  /** @returns why it can be no request, if so; without a fault the head may still be incomplete */
  #lookForHead(): Refused | undefined {
    const { maxHeadBytes, maxBodyBytes } = this.#limits;
    const bytes = this.bytes;
    // so that a drip of single bytes is never many chunks
    this.#chunks = [bytes];
    const first = bytes[0] ?? 0;
    if (first < 0x41 || first > 0x5a) return refused(400, "this is no HTTP request");
    const end = bytes.subarray(0, maxHeadBytes).indexOf(headEnd);
    if (end < 0)
      return bytes.length < maxHeadBytes ? undefined : refused(431, `the head is over ${maxHeadBytes} bytes`);
    const body = bodyBytes(bytes.toString("latin1", 0, end + 2));
    if (typeof body !== "number") return body;
    if (body > maxBodyBytes) return refused(413, `the body is over ${maxBodyBytes} bytes`);
    this.#wholeSize = end + headEnd.length + body;
    return undefined;
  }
}

function bodyBytes(head: string): number | Refused {
  if (/\ntransfer-encoding[ \t]*:/i.test(head)) return refused(411, "a body needs a Content-Length");
  const lengths = Array.from(head.matchAll(/\ncontent-length[ \t]*:([^\r\n]*)/gi), ([, value = ""]) =>
    value.trim(),
  );
  if (lengths.length > 1 || !/^\d{0,15}$/.test(lengths[0] ?? ""))
    return refused(400, "its Content-Length cannot be understood");
  return Number(lengths[0] ?? 0);
}

function refused(status: Refused["status"], reason: string): Refused {
  return { kind: "refused", status, reason };
}
