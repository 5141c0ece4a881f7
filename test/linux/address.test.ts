// SPDX-License-Identifier: Apache-2.0
// Addresses as bytes and as text, against Node's own reading of them.
import { SocketAddress } from "node:net";
import { expect, test } from "vitest";
import { addressBytes, addressText } from "../../src/linux/address.ts";

/** What inet_ntop(3) makes of it. */
function reference(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, at) =>
    Buffer.from(bytes)
      .readUInt16BE(2 * at)
      .toString(16),
  );
  return new SocketAddress({ address: groups.join(":"), family: "ipv6" }).address;
}

test("an address of any zeros is written as the kernel's tools write it, and read back", () => {
  for (let mask = 0; mask < 1 << 8; mask++) {
    for (const filling of [0x1, 0xffff, 0xab0]) {
      const groups = Array.from({ length: 8 }, (_, at) => ((mask >> at) & 1) * filling);
      const bytes = Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff]));
      expect(addressText(bytes)).toBe(reference(bytes));
      expect(addressBytes(addressText(bytes))).toEqual(bytes);
    }
  }
});

test.each([
  "::",
  "::1",
  "::1.2.3.4",
  "::ffff:10.0.0.1",
  "::fffe:10.0.0.1",
  "fd00:0:0:1::2",
  "1::2:0:0:3:4:5",
])("%s is one of them", (text) => {
  const bytes = addressBytes(text);
  expect(addressText(bytes)).toBe(reference(bytes));
});

test("an address of four bytes is one of IPv4, and of any other number none", () => {
  expect(addressText(Uint8Array.of(10, 0, 255, 1))).toBe("10.0.255.1");
  expect(() => addressText(new Uint8Array(5))).toThrow("5 bytes");
});
