// SPDX-License-Identifier: Apache-2.0
// What is in the registers while a rule of nf_tables is followed. Pure.

/** What a register holds, as far as it matters. */
export type RegisterContent =
  | { readonly is: "unknown" }
  | { readonly is: "constant"; readonly bytes: Uint8Array }
  | { readonly is: "meta"; readonly key: number }
  /** A part of a header, some of its bits at zero where there is a mask. */
  | { readonly is: "header"; readonly base: number; readonly offset: number; readonly mask?: Uint8Array }
  /** `(mark & mask) ^ xor` of the packet or of its connection. */
  | {
      readonly is: "mark";
      readonly of: "packet" | "connection";
      readonly mask: number;
      readonly xor: number;
    };

/** Source: linux/netfilter/nf_tables.h, enum nft_registers: four of 16 bytes lie over sixteen of four. */
const WIDE = 16;
const NARROW = { bytes: 4, first: 8 } as const;

/** They overlap: what is written in one is gone from others. */
export class NftRegisters {
  #written: { readonly from: number; readonly to: number; readonly content: RegisterContent }[] = [];

  /** What was written to exactly there. */
  read(register: number): RegisterContent {
    const from = startOf(register);
    return this.#written.find((each) => each.from === from)?.content ?? { is: "unknown" };
  }

  write(register: number, bytes: number, content: RegisterContent): void {
    const from = startOf(register);
    const to = from + bytes;
    this.#written = this.#written.filter((each) => each.to <= from || each.from >= to);
    this.#written.push({ from, to, content });
  }

  /** Any of them may have been written. */
  clear(): void {
    this.#written = [];
  }
}

function startOf(register: number): number {
  return register >= NARROW.first ? (register - NARROW.first) * NARROW.bytes : (register - 1) * WIDE;
}
