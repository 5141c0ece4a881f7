// SPDX-License-Identifier: Apache-2.0
// Refuses connections before Node makes anything of them.
import { BlockList, type SocketAddress } from "node:net";

/**
 * For the option `blockList` of a server: asked for the address of every connection, it answers as things stand at that moment. What is
 * refused costs a handle, a tenth of what a socket with its streams does. Unix sockets have no address, and are not asked about.
 * Source: nodejs/node lib/net.js, onconnection.
 */
export class Doorkeeper extends BlockList {
  readonly #refuses: (address: string) => boolean;

  constructor(refuses: (address: string) => boolean) {
    super();
    this.#refuses = refuses;
  }

  /** @param address as the kernel has it: IPv4 may be spelt in IPv6 */
  override check(address: string | SocketAddress): boolean {
    return this.#refuses(typeof address === "string" ? address : address.address);
  }
}
