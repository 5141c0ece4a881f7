// SPDX-License-Identifier: Apache-2.0
// Whom a connection comes from, as far as its addresses prove it.

/** The ends of a connection; those of a Unix socket have no addresses. */
export interface Ends {
  readonly remoteAddress?: string | undefined;
  readonly localAddress?: string | undefined;
}

/** What counts as one peer. */
export interface Peer {
  /** Its address in one spelling; undefined on a Unix socket. */
  readonly address: string | undefined;
  /** It is this node: a loopback address, or the address of the node that it connected to, which the kubelet's probes come from. */
  readonly isOwn: boolean;
}

const loopback = /^(127\.|::1$)/;

/**
 * A node that connects to an address of its own does so from the same address, and nobody else can: the kernel drops packets that
 * come from outside with one of its own addresses, and answers would not leave the node. Pure.
 * Source: linux net/ipv4/fib_frontend.c, __fib_validate_source (accept_local); RFC 6724, section 5, rule 1.
 */
export function peerOf({ remoteAddress, localAddress }: Ends): Peer {
  if (remoteAddress === undefined) return { address: undefined, isOwn: false };
  const address = withoutMapping(remoteAddress);
  return { address, isOwn: loopback.test(address) || address === withoutMapping(localAddress ?? "") };
}

/** A socket of both families spells IPv4 in IPv6. Source: RFC 4291, section 2.5.5.2. */
export function withoutMapping(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, "");
}
