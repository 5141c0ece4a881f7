// SPDX-License-Identifier: Apache-2.0
// What a rule of somebody else's means for packets that ztunnel should get. Pure.
import type { Effect } from "./xt-targets.ts";

/** Where the packets are that a rule sees. */
export type PacketHook = "prerouting" | "output" | "ingress";

/** A rule, whatever engine it is of. */
export interface RuleMeaning {
  /** For packets that ztunnel should get; none for a rule that sees no such packet. */
  readonly effects: readonly Effect[];
  /** Chains that it leads into, by the reader's own key. */
  readonly leads: readonly string[];
  /** From these it does not come back. */
  readonly isGoto: boolean;
  /** A map decides: it may lead into any chain of its table. */
  readonly leadsAnywhere: boolean;
  /** It sees every packet. */
  readonly isUnconditional: boolean;
}

const TCP = 6;
const UDP = 17;
const DNS_PORT = 53;

/**
 * What is known of the packets that a rule sees. ztunnel takes all TCP but to and from the loopback device and addresses, and
 * of UDP the queries that the pod sends to port 53.
 */
export class PacketGuard {
  readonly #hook: PacketHook;
  #isNoTcp = false;
  #isOtherPort = false;
  #isOutside = false;

  constructor(hook: PacketHook) {
    this.#hook = hook;
  }

  /** No packet that is left is one for ztunnel. */
  get isHarmless(): boolean {
    return this.#isOutside || (this.#isNoTcp && (this.#hook !== "output" || this.#isOtherPort));
  }

  /** Only packets of this IP protocol, or only all others. */
  protocol(protocol: number, inverted = false): void {
    if (inverted ? protocol === TCP : protocol !== TCP) this.#isNoTcp = true;
    if (!inverted && protocol !== TCP && protocol !== UDP) this.#isOutside = true;
  }

  /** Only packets to these ports. */
  ports(first: number, last = first): void {
    if (first > DNS_PORT || last < DNS_PORT) this.#isOtherPort = true;
  }

  /** Only packets on the loopback device, or to a loopback address. */
  loopback(): void {
    this.#isOutside = true;
  }
}
