// SPDX-License-Identifier: Apache-2.0
// Hears of what no kernel announces, by asking for it again and again. The addon does so on a thread of its own: this process wakes up when
// the answer has become another one.
import { addon, attempt, explain, type Handle, netlinkInNetns } from "./native.ts";
import { encodeRequests, type NetlinkRequest } from "./netlink/message.ts";
import type { Netns } from "./netns.ts";

/** What is asked, and how often. */
export interface NetnsQuestion {
  /** For example NETLINK_NETFILTER (12). */
  readonly protocol: number;
  /** That only read, and have the same answer as long as nothing has changed; all of it at most 256 KiB. */
  readonly requests: readonly NetlinkRequest[];
  readonly everyMs: number;
}

/** A question to one namespace's kernel. It keeps the namespace alive, and ends with the {@link Netns} that it was opened for. */
export class NetnsPoll implements Disposable {
  readonly #netns: Netns;
  readonly #protocol: number;
  readonly #request: Uint8Array;
  #handle: Handle | undefined;
  #onchanged: (() => void) | undefined;

  private constructor(netns: Netns, { protocol, requests }: NetnsQuestion) {
    this.#netns = netns;
    this.#protocol = protocol;
    this.#request = encodeRequests(requests);
  }

  /**
   * Opens it; nothing is asked before {@link listen}.
   * @returns undefined when the namespace was closed meanwhile
   * @throws NativeError setns, socket (EMFILE; EPROTONOSUPPORT: the kernel has no such protocol), pthread_create
   */
  static async open(netns: Netns, question: NetnsQuestion): Promise<NetnsPoll | undefined> {
    if (netns.closed) return undefined;
    const poll = new NetnsPoll(netns, question);
    const onchanged = (): void => {
      const tell = poll.#onchanged;
      poll.#onchanged = undefined;
      tell?.();
    };
    try {
      const { protocol, everyMs } = question;
      poll.#handle = await addon().pollInNetns(netns.fd, protocol, poll.#request, everyMs, onchanged);
    } catch (error) {
      throw explain("ask again and again in a network namespace", error);
    }
    if (netns.closed) poll.close();
    else netns.onclose(() => poll.close());
    return poll.#handle === undefined ? undefined : poll;
  }

  /**
   * Asks now, and again and again until the answer is another one: who looks at the namespace once this is resolved misses nothing.
   * @param onchanged called once, from the event loop, also when there is no answer any more; not when it was asked anew before
   * @throws NativeError as {@link netlinkInNetns}
   */
  async listen(onchanged: () => void): Promise<void> {
    if (this.#handle === undefined) return;
    const answer = await netlinkInNetns(this.#netns.fd, this.#protocol, this.#request);
    const handle = this.#handle;
    if (handle === undefined) return;
    this.#onchanged = onchanged;
    attempt("ask again and again in a network namespace", () => addon().pollFrom(handle, answer));
  }

  /** Lets the namespace go, as soon as the kernel has answered what it was asked. May be repeated. */
  close(): void {
    if (this.#handle === undefined) return;
    addon().pollClose(this.#handle);
    this.#handle = undefined;
    this.#onchanged = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
