// SPDX-License-Identifier: Apache-2.0
// Which sidecars are looked after, and what is said of it; the rules themselves are those of a fake.
import { afterEach, expect, test, vi } from "vitest";
import type { Place } from "../../src/enrolment/attachments.ts";
import { SidecarLooks } from "../../src/enrolment/sidecar-looks.ts";
import { SidecarRecords } from "../../src/enrolment/sidecar-records.ts";
import { Sidecars } from "../../src/enrolment/sidecars.ts";
import type { PodFacts } from "../../src/kube/pod-facts.ts";
import { netnsKeyAt } from "../../src/linux/host-netns.ts";
import { Netns } from "../../src/linux/netns.ts";
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
  const isInjected = !uid.startsWith("other");
  return {
    uid,
    namespace: "shop",
    name: uid,
    phase: "Running",
    hostNetwork: false,
    labels: {},
    annotations: isInjected ? { "sidecar.istio.io/status": "{}" } : {},
    ...(isInjected ? { sidecar: { dnsCapture: false, dualStack: false, dropInvalid: false } } : {}),
    ...changes,
  } as PodFacts;
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

/** A node with these pods; `apply` answers for each look. */
function started(pods: readonly PodFacts[], places: readonly Place[], apply: () => SidecarReport) {
  const clock = new FakeClock();
  const log = recordingLogger();
  const seen: Netns[] = [];
  const records = new SidecarRecords();
  const told: string[] = [];
  const attachments = { placeOf: (uid: string) => places.find((each) => each.uid === uid) };
  const sidecars = new Sidecars({
    redirection: {
      takesOwnUsers: false,
      prepare: async () => {},
      verify: async () => [],
      apply: async (netns) => {
        expect(netns.closed).toBe(false);
        seen.push(netns);
        return apply();
      },
    },
    attachments,
    records,
    excludeNamespaces: new Set(),
    log,
  });
  looks = new SidecarLooks({
    pods: { values: () => pods },
    sidecars,
    attachments,
    records,
    events: { record: ({ name }, { reason, message }) => void told.push(`${name} ${reason}: ${message}`) },
    find: async ({ uid }) => (uid === "repaired" ? Netns.open(here) : undefined),
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
  return { log, seen, told, untilSeen, next, records, served: (each: PodFacts) => sidecars.served(each) };
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
  const { seen, untilSeen, next, log, records, served } = started(pods, places, () => right);
  await untilSeen(2);
  await next(4);
  await vi.waitFor(() => expect(seen.every(({ closed }) => closed)).toBe(true));
  expect(log.lines).toEqual([]);
  const stateOf = (each: PodFacts) => served(each)?.record?.state;
  expect(Object.fromEntries(pods.map((each) => [each.uid, stateOf(each)]))).toEqual({
    ours: "sidecar",
    last: "sidecar",
    // their namespace is not where it was
    moved: "unverified",
    gone: "unverified",
  });
  expect(records.of("gone")?.failure).toMatchObject({
    kind: "sandbox",
    message: `network namespace ${netnsKeyAt(here)} is not at "/proc/self/ns/nobody" any more`,
  });
});

test("a pod that is slow to look at holds up none of the others", async () => {
  const slow = Promise.withResolvers<SidecarReport>();
  let calls = 0;
  const answer = () => (calls++ === 0 ? (slow.promise as unknown as SidecarReport) : right);
  const { untilSeen, records } = started(
    [pod("slow"), pod("ours"), pod("last")],
    [place("slow"), place("ours"), place("last")],
    answer,
  );
  await untilSeen(3);
  await vi.waitFor(() => expect(records.of("last")?.state).toBe("sidecar"));
  expect(records.of("slow")).toBeUndefined();
  slow.resolve(right);
});

test("a pod that was repaired is looked at where its processes are, as long as there are any", async () => {
  const pods = [pod("repaired"), pod("ended"), pod("unknown")];
  const { seen, next, records } = started(pods, [], () => right);
  for (const uid of ["repaired", "ended"]) records.right(uid, { netnsKey: "4:1", families: [4], ms: 1 });
  await next(1);
  expect(records.of("repaired")?.look?.netnsKey).toBe(netnsKeyAt(here));
  expect(records.of("ended")).toMatchObject({ state: "unverified", failure: { kind: "sandbox" } });
  expect(records.of("unknown")).toBeUndefined();
  await vi.waitFor(() => expect(seen.every(({ closed }) => closed)).toBe(true));
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
  const { log, told, untilSeen, next, records } = started([pod("ours")], [place("ours")], () => {
    const answer = answers.shift() ?? right;
    if (answer instanceof Error) throw answer;
    return answer;
  });
  await untilSeen(1);
  for (let count = 2; count <= 7; count++) await next(count);
  const said = (why: string) =>
    `Cannot redirect pod "shop/ours" to its sidecar: ${why}; the log of this node's CNI agent has the details. The pod is tried again by kubelet`;
  expect(log.lines.map(({ fields: { reason, drift } }) => reason ?? drift)).toEqual([
    mended.repaired,
    said("no way"),
    said("another"),
    said("another"),
  ]);
  expect(told).toEqual([
    "ours SidecarRepaired: The redirection of this pod to its sidecar had been changed and was put back: IPv4: -j RETURN. " +
      "Look for what writes network rules in it.",
    ...["no way", "another", "another"].map(
      (why) =>
        `ours SidecarCannotVerify: Cannot verify whether this pod is redirected to its sidecar: ${why}; ` +
        "the log of this node's CNI agent has the details. It is left as it is until that can be told",
    ),
  ]);
  expect([...records.repairs]).toEqual([["missing-rule", 1]]);
  expect(records.of("ours")?.transitions.map(({ to, reason }) => `${to}: ${reason}`)).toEqual([
    "sidecar: its rules stand, and were verified in the kernel",
    "unverified: no way",
    "sidecar: its rules stand, and were verified in the kernel",
    "unverified: another",
    "sidecar: its rules stand, and were verified in the kernel",
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
