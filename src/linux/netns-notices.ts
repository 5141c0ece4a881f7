// SPDX-License-Identifier: Apache-2.0
// What the kernel announces in a network namespace: that something of its rules or routes changed. What it was is asked, never read here.
import { addon, attempt, explain, type Handle } from "./native.ts";
import type { Netns } from "./netns.ts";

/** What is listened to: for each protocol the numbers of its multicast groups. */
export type NoticeKind = "pod" | "host";

const NETLINK_ROUTE = 0;
const NETLINK_NETFILTER = 12;
// Source: linux/rtnetlink.h, enum rtnetlink_groups
const RTNLGRP = {
  link: 1,
  ipv4Address: 5,
  ipv4Route: 7,
  ipv4Rule: 8,
  ipv6Address: 9,
  ipv6Route: 11,
  ipv6Rule: 19,
} as const;
// Source: linux/netfilter/nfnetlink.h, enum nfnetlink_groups
const NFNLGRP_NFTABLES = 7;

/**
 * - `pod`: rules of nf_tables, ip rules, routes, devices, addresses.
 * - `host`: rules of nf_tables with their sets, and ip rules; devices and routes come and go there with every pod.
 *
 * Sets of ipset and rules of iptables-legacy are announced by no kernel.
 */
const GROUPS: Readonly<Record<NoticeKind, readonly (readonly number[])[]>> = {
  pod: [
    [NETLINK_NETFILTER, NFNLGRP_NFTABLES],
    [NETLINK_ROUTE, ...Object.values(RTNLGRP)],
  ],
  host: [
    [NETLINK_NETFILTER, NFNLGRP_NFTABLES],
    [NETLINK_ROUTE, RTNLGRP.ipv4Rule, RTNLGRP.ipv6Rule],
  ],
};

/** Descriptors that one namespace takes. */
export const NOTICE_FDS = 2;

/**
 * Ears in one namespace. They keep it alive as an open {@link Netns} does, and end with the one they were opened for.
 * What is announced costs one call until {@link listen} is called again, however much it is.
 */
export class NetnsNotices implements Disposable {
  readonly #handle: Handle;
  #isClosed = false;

  private constructor(handle: Handle) {
    this.#handle = handle;
  }

  /**
   * Opens them; they hear nothing before {@link listen}.
   * @param netns whose closing closes them
   * @returns undefined when it was closed meanwhile
   * @throws NativeError setns, socket (EMFILE; EPROTONOSUPPORT: the kernel has no such protocol), bind, setsockopt, pthread_create
   */
  static async open(netns: Netns, kind: NoticeKind): Promise<NetnsNotices | undefined> {
    if (netns.closed) return undefined;
    let handle: Handle;
    try {
      handle = await addon().notifyInNetns(netns.fd, GROUPS[kind]);
    } catch (error) {
      throw explain("listen in a network namespace", error);
    }
    const notices = new NetnsNotices(handle);
    if (netns.closed) notices.close();
    else netns.onclose(() => notices.close());
    return notices.isClosed ? undefined : notices;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * Forgets what was announced so far and hears what comes from now on: who looks at the namespace after that misses nothing.
   * @param onheard called once, from the event loop @throws NativeError uv_poll_start
   */
  listen(onheard: () => void): void {
    if (this.#isClosed) return;
    attempt("listen in a network namespace", () => addon().notifyListen(this.#handle, onheard));
  }

  /** Lets the namespace go at once. May be repeated. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    addon().notifyClose(this.#handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
