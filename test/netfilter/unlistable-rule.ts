// SPDX-License-Identifier: Apache-2.0
// A rule that does nothing, longer than what the kernel lists at once: a list ends before it, without a word.
import { encodeAttribute } from "../../src/linux/netlink/message.ts";

/** Its list of expressions. */
export function unlistableRule(): Uint8Array {
  const match = Buffer.concat([
    encodeAttribute(1, Buffer.from("comment\0")),
    encodeAttribute(2, new Uint8Array(4)),
    encodeAttribute(3, new Uint8Array(256)),
  ]);
  const expression = Buffer.concat([encodeAttribute(1, Buffer.from("match\0")), encodeAttribute(2, match)]);
  return Buffer.concat(Array.from({ length: 120 }, () => encodeAttribute(1, expression)));
}
