// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { readinessText } from "../../src/status/health-server.ts";
import { Readiness } from "../../src/status/readiness.ts";

const own = { remoteAddress: "127.0.0.1", localAddress: "127.0.0.1" };
const pod = { remoteAddress: "10.1.0.7", localAddress: "10.1.0.1" };

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
