// SPDX-License-Identifier: Apache-2.0
// Asks the kernel a list of netlink requests inside a network namespace; the answers come back one per request.
import { NativeError, systemError } from "../native.ts";
import { converse, type NetnsAt } from "../netns-visit.ts";
import {
  encodeRequests,
  type NetlinkAnswer,
  type NetlinkRequest,
  type Skip,
  sortAnswers,
} from "./message.ts";

const MAX_READS = 5;

/** A request the kernel refused. `code` is the name of the errno ("EPERM"). */
export class NetlinkError extends Error {
  override readonly name = "NetlinkError";
  readonly code: string;

  constructor(doing: string, code: string, why: string) {
    super(`Cannot ${doing}: ${why}`);
    this.code = code;
  }
}

/** How much is heard. */
export interface ExchangeOptions {
  /** With so many bytes of answers nothing is made of them; default: all that there is, up to 64 MiB. */
  readonly maxBytes?: number | undefined;
  /** Messages of which nothing is made. */
  readonly isSkipped?: Skip | undefined;
}

/**
 * Sends the requests and waits for all answers; what the kernel refused is in the answers.
 *
 * @throws NetlinkError EMSGSIZE if there is as much as is heard at most
 * @throws NativeError if the conversation itself failed
 */
export async function exchange(
  at: NetnsAt,
  protocol: number,
  requests: readonly NetlinkRequest[],
  { maxBytes, isSkipped }: ExchangeOptions = {},
): Promise<NetlinkAnswer[]> {
  const request = encodeRequests(requests);
  const received = await converse(at, { protocol, request, enoughBytes: maxBytes });
  if (maxBytes !== undefined && received.length >= maxBytes) {
    // megabytes that nobody reads are not left to the collector: a pod can have them asked for again and again
    if (received.buffer instanceof ArrayBuffer) received.buffer.transfer(0);
    throw new NetlinkError("read network state", "EMSGSIZE", `it is longer than ${maxBytes} bytes`);
  }
  return sortAnswers(requests.length, received, isSkipped);
}

/**
 * Like {@link exchange} for requests that only read: repeated until no list changed while it was made.
 *
 * @throws NetlinkError EAGAIN if it changed every time; EMSGSIZE as {@link exchange}
 * @throws NativeError if the conversation itself failed
 */
export function read(
  at: NetnsAt,
  protocol: number,
  requests: readonly NetlinkRequest[],
  options: ExchangeOptions = {},
): Promise<NetlinkAnswer[]> {
  return repeatUntilConsistent(() => exchange(at, protocol, requests, options));
}

/** The part of {@link read} that decides: `ask` is called up to five times. */
export async function repeatUntilConsistent(ask: () => Promise<NetlinkAnswer[]>): Promise<NetlinkAnswer[]> {
  for (let attempt = 1; attempt <= MAX_READS; attempt++) {
    try {
      const answers = await ask();
      if (!answers.some(({ interrupted }) => interrupted)) return answers;
    } catch (error) {
      // ENOBUFS: the kernel dropped an answer for want of room. Reading again costs nothing.
      if (!(error instanceof NativeError && error.code === "ENOBUFS" && attempt < MAX_READS)) throw error;
    }
  }
  throw new NetlinkError(
    "read network state",
    "EAGAIN",
    `it changed during each of ${MAX_READS} attempts; try again later`,
  );
}

/** "EEXIST" for -17; "no answer" when the kernel gave none. */
export function errorCode(error: number | undefined): string {
  if (error === undefined) return "no answer";
  return systemError(error)?.[0] ?? `errno ${-error}`;
}

/** @throws NetlinkError unless the answer is success */
export function check(doing: string, { error, reason }: NetlinkAnswer): void {
  if (error === 0) return;
  const code = errorCode(error);
  throw new NetlinkError(doing, code, reason === undefined ? code : `${code} (${reason})`);
}
