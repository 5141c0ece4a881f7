// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { Readiness } from "../../src/status/readiness.ts";
import { isOwnPeer, readinessText } from "../../src/status/readiness-text.ts";

const own = { remoteAddress: "127.0.0.1", localAddress: "127.0.0.1" };
const pod = { remoteAddress: "10.1.0.7", localAddress: "10.1.0.1" };

describe("who asks", () => {
  test.each<[string, string | undefined, string, boolean]>([
    ["over IPv4's loopback", "127.0.0.1", "127.0.0.1", true],
    ["over another address of the loopback", "127.8.0.1", "127.0.0.1", true],
    ["over the loopback, on a socket of both families", "::ffff:127.0.0.1", "::ffff:127.0.0.1", true],
    ["over IPv6's loopback", "::1", "::1", true],
    ["from the address that is asked, as the kubelet of a host network", "10.0.0.5", "10.0.0.5", true],
    ["a pod", "10.1.0.7", "10.0.0.5", false],
    ["a pod, on a socket of both families", "::ffff:10.1.0.7", "::ffff:10.0.0.5", false],
    ["an IPv6 address that begins like the loopback's", "::127.0.0.1", "fd00::1", false],
    ["a name that only looks like the loopback's", "fd00::ffff:127:0", "fd00::1", false],
    ["somebody who has gone", undefined, "10.0.0.5", false],
  ])("%s", (_, remoteAddress, localAddress, isOwn) => {
    expect(isOwnPeer({ remoteAddress, localAddress })).toBe(isOwn);
  });
});

describe("what is told", () => {
  test("everybody hears that it is ready", () => {
    const readiness = new Readiness({});
    expect([own, pod].map((peer) => readinessText(readiness, peer))).toEqual(["ready\n", "ready\n"]);
  });

  test("the node hears reasons, a stranger a number", () => {
    const readiness = new Readiness({ watches: "no lists", probes: "shop/cart has no rule" });
    expect(readinessText(readiness, own)).toBe(
      "not ready: watches: no lists; probes: shop/cart has no rule\n",
    );
    expect(readinessText(readiness, pod)).toBe(
      "not ready: 2 conditions are not met; see ambient-cni status\n",
    );
    readiness.meet("watches");
    expect(readinessText(readiness, pod)).toBe("not ready: 1 condition is not met; see ambient-cni status\n");
  });
});
