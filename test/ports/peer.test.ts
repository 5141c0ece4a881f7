// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { peerOf } from "../../src/ports/peer.ts";

test.each([
  ["a pod", "::ffff:10.0.0.7", "::ffff:10.0.0.1", { address: "10.0.0.7", isOwn: false }],
  ["a pod, in IPv6", "fd00::7", "fd00::1", { address: "fd00::7", isOwn: false }],
  ["the kubelet", "::ffff:10.0.0.1", "::ffff:10.0.0.1", { address: "10.0.0.1", isOwn: true }],
  ["the kubelet, in IPv6", "fd00::1", "fd00::1", { address: "fd00::1", isOwn: true }],
  ["loopback", "::ffff:127.0.0.1", "::ffff:127.0.0.1", { address: "127.0.0.1", isOwn: true }],
  ["loopback, another of its addresses", "127.0.0.2", "127.0.0.1", { address: "127.0.0.2", isOwn: true }],
  ["loopback, in IPv6", "::1", "::1", { address: "::1", isOwn: true }],
  ["an address that begins like loopback", "::1:2", "fd00::1", { address: "::1:2", isOwn: false }],
  [
    "an IPv6 address that ends like loopback's",
    "::127.0.0.1",
    "fd00::1",
    { address: "::127.0.0.1", isOwn: false },
  ],
  ["a Unix socket", undefined, undefined, { address: undefined, isOwn: false }],
])("%s is told by its addresses", (_, remoteAddress, localAddress, expected) => {
  expect(peerOf({ remoteAddress, localAddress })).toEqual(expected);
});
