// SPDX-License-Identifier: Apache-2.0
// Which sidecars are looked after, and what is said of it; the rules themselves are those of a fake.
import { afterEach, expect, test, vi } from "vitest";
import type { Place } from "../../src/enrolment/attachments.ts";
import { SidecarLooks } from "../../src/enrolment/sidecar-looks.ts";
import type { PodFacts } from "../../src/kube/pod-facts.ts";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import type { Netns } from "../../src/linux/netns.ts";
import type { SidecarReport } from "../../src/redirection/sidecar-redirection.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import { FakeClock } from "../support/fake-clock.ts";

const here = "/proc/self/ns/net";
const right: SidecarReport = { repaired: [], families: [4] };
const mended: SidecarReport = {
  repaired: [{ kind: "missing-rule", family: 4, table: "nat", chain: "ISTIO_OUTPUT", detail: "-j RETURN" }],
  families: [4],
};
const intervalMs = 1_000;
let looks: SidecarLooks | undefined;

afterEach(async () => {
  await looks?.stop();
});

function pod(uid: string, changes: Partial<PodFacts> = {}): PodFacts {
  return { uid, namespace: "shop", name: uid, ...changes } as PodFacts;
}

function place(uid: string, changes: Partial<Place> = {}): Place {
  const key = netnsKeyAt(here) ?? "";
  return {
    uid,
    namespace: "shop",
    name: uid,
    containerId: uid,
    netnsPath: here,
    netnsKey: key,
    ips: [],
    ...changes,
  };
}

/** A node with these pods; `apply` answers for each. */
function started(
  pods: readonly PodFacts[],
  places: readonly Place[],
  apply: (pod: PodFacts) => SidecarReport,
) {
  const clock = new FakeClock();
  const log = recordingLogger();
  const seen: { uid: string; netns: Netns }[] = [];
  looks = new SidecarLooks({
    pods: { values: () => pods },
    sidecars: {
      awaitsRules: ({ name }) => !name.startsWith("other"),
      apply: async (each, netns) => {
        expect(netns.closed).toBe(false);
        seen.push({ uid: each.uid, netns });
        return apply(each);
      },
    },
    attachments: { placeOf: (uid) => places.find((each) => each.uid === uid) },
    hostRoot: "/",
    intervalMs,
    log,
    clock,
  });
  looks.start();
  const untilSeen = (count: number) => vi.waitFor(() => expect(seen).toHaveLength(count));
  const next = async (count: number) => {
    await vi.waitFor(() => expect(clock.pendingCount).toBe(1));
    clock.advance(intervalMs);
    await untilSeen(count);
  };
  return { log, seen, untilSeen, next };
}

test("pods are looked at where this node's ADD was ours and their namespace is the same, again and again", async () => {
  const pods = [
    pod("ours"),
    pod("other"),
    pod("unknown"),
    pod("leaving", { deletionTimestamp: true }),
    pod("moved"),
    pod("gone"),
    pod("last"),
  ];
  const places = [
    place("ours"),
    place("other"),
    place("leaving"),
    place("moved", { netnsKey: "1:2" }),
    place("gone", { netnsPath: "/proc/self/ns/nobody" }),
    place("last"),
  ];
  const { seen, untilSeen, next, log } = started(pods, places, () => right);
  await untilSeen(2);
  await next(4);
  expect(seen.map(({ uid }) => uid)).toEqual(["ours", "last", "ours", "last"]);
  await vi.waitFor(() => expect(seen.every(({ netns }) => netns.closed)).toBe(true));
  expect(log.lines).toEqual([]);
});

test("what was put right is told each time, what cannot be once until it changes", async () => {
  const answers: (SidecarReport | Error)[] = [
    mended,
    new Error("no way"),
    new Error("no way"),
    new Error("another"),
    right,
    new Error("another"),
  ];
  const { log, untilSeen, next } = started([pod("ours")], [place("ours")], () => {
    const answer = answers.shift() ?? right;
    if (answer instanceof Error) throw answer;
    return answer;
  });
  await untilSeen(1);
  for (let count = 2; count <= 7; count++) await next(count);
  expect(log.lines.map(({ fields: { reason, drift } }) => reason ?? drift)).toEqual([
    mended.repaired,
    "no way",
    "another",
    "another",
  ]);
});

test("what an earlier agent left and cannot be taken away is told once", async () => {
  const { log, untilSeen, next } = started([pod("ours")], [place("ours")], () => ({
    ...right,
    leftoverFault: "iptables-legacy is not in PATH",
  }));
  await untilSeen(1);
  for (let count = 2; count <= 4; count++) await next(count);
  await vi.waitFor(() => expect(log.lines).toHaveLength(1));
  expect(log.lines[0]).toMatchObject({
    level: "warn",
    fields: { pod: "ours", reason: "iptables-legacy is not in PATH" },
    message: expect.stringMatching(/^rules of an earlier agent still stand/),
  });
});
