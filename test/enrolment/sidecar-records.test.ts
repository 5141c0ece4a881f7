// SPDX-License-Identifier: Apache-2.0
// What is remembered of pods with a sidecar, and what an ADD or a look that fails makes of it.
import { expect, test } from "vitest";
import { SidecarRecords, type SidecarSetback } from "../../src/enrolment/sidecar-records.ts";
import { SidecarError, Sidecars } from "../../src/enrolment/sidecars.ts";
import type { PodFacts } from "../../src/kube/pod-facts.ts";
import { Netns } from "../../src/linux/netns.ts";
import { RedirectionError } from "../../src/redirection/redirection-error.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";

const setback: SidecarSetback = { state: "unverified", kind: "kernel", message: "no way", remedy: "; wait" };
const seen = { netnsKey: "4:1", families: [4], ms: 1.234 } as const;

function injected(annotations: Record<string, string> = {}): PodFacts {
  return {
    uid: "u",
    namespace: "shop",
    name: "web",
    phase: "Pending",
    hostNetwork: false,
    labels: {},
    annotations: { "sidecar.istio.io/status": "{}", ...annotations },
    sidecar: { dnsCapture: false, dualStack: false, dropInvalid: false },
  } as unknown as PodFacts;
}

function served(fault: Error | undefined) {
  const records = new SidecarRecords();
  const sidecars = new Sidecars({
    redirection: {
      takesOwnUsers: false,
      prepare: async () => {},
      verify: async () => [],
      apply: async () => {
        if (fault !== undefined) throw fault;
        return { repaired: [], families: [4, 6] };
      },
    },
    attachments: { placeOf: () => undefined },
    records,
    excludeNamespaces: new Set(["apart"]),
    log: recordingLogger(),
  });
  return { records, sidecars };
}

const open = () => Netns.open("/proc/self/ns/net");

test("failures are counted in a row, with the remedy as a sentence, and a success ends them", () => {
  const records = new SidecarRecords();
  for (let times = 0; times < 3; times++) records.failed("u", setback, 0);
  expect(records.of("u")).toMatchObject({
    state: "unverified",
    look: undefined,
    failure: { attempts: 3, remedy: "wait" },
  });
  records.right("u", seen);
  expect(records.of("u")).toMatchObject({ state: "sidecar", look: { netnsKey: "4:1" }, failure: undefined });
  expect(records.of("u")?.transitions.map(({ from, to, ms }) => [from, to, ms])).toEqual([
    ["outside", "unverified", 0],
    ["unverified", "sidecar", 1.2],
  ]);
});

test("pods and their changes are bounded, and those that are gone are forgotten", () => {
  const records = new SidecarRecords({ maxPods: 2 });
  for (const uid of ["a", "b", "a", "c"]) records.right(uid, seen);
  expect(["a", "b", "c"].filter((uid) => records.of(uid) !== undefined)).toEqual(["a", "c"]);
  for (let times = 0; times < 20; times++) {
    records.failed("c", setback, 0);
    records.right("c", seen);
  }
  expect(records.of("c")?.transitions).toHaveLength(16);
  expect(records.of("c")?.transitions.at(-1)?.to).toBe("sidecar");
  // an ADD may be ahead of the list
  records.keepOnly(new Set(["c"]));
  expect(records.of("a")).toBeDefined();
  records.keepOnly(new Set(["a", "c"]));
  records.keepOnly(new Set(["c"]));
  expect(records.of("a")).toBeDefined();
  records.keepOnly(new Set(["c"]));
  expect(records.of("a")).toBeUndefined();
  expect(records.of("c")).toBeDefined();
});

test("a pod whose ADD is answered stands as sidecar, with its namespace and families", async () => {
  const { records, sidecars } = served(undefined);
  expect(sidecars.served(injected())).toBeUndefined();
  expect(await sidecars.add(injected(), open)).toBe(true);
  using here = open();
  expect(records.of("u")).toMatchObject({
    state: "sidecar",
    look: { netnsKey: here.key, families: [4, 6] },
  });
  expect(sidecars.served(injected())?.options).toMatchObject({ mode: "REDIRECT", proxyUid: 1337 });
  expect(sidecars.served({ ...injected(), namespace: "apart" })).toBeUndefined();
});

const cannotJudge = new RedirectionError("UNREADABLE_TABLE", "table nat cannot be read");
const wrong = new RedirectionError("NOT_CONVERGED", "rules are written anew by somebody");

test.each([
  ["an ADD that cannot tell", cannotJudge, true, "failed"],
  ["a look that cannot tell", cannotJudge, false, "unverified"],
  ["a look that finds them wrong and cannot mend them", wrong, false, "failed"],
  ["a look that did not get there", new Error("no descriptor left"), false, "unverified"],
] as const)("%s leaves the pod with its reason", async (_, fault, isAdd, state) => {
  const { records, sidecars } = served(fault);
  using netns = open();
  const done = isAdd ? sidecars.add(injected(), open) : sidecars.apply(injected(), netns);
  await expect(done).rejects.toBeInstanceOf(SidecarError);
  expect(records.of("u")).toMatchObject({ state, failure: { message: fault.message, attempts: 1 } });
});

test("an annotation that cannot be followed is the failure, with what to do about it", async () => {
  const { sidecars } = served(undefined);
  const pod = injected({ "sidecar.istio.io/interceptionMode": "BOTH" });
  await expect(sidecars.add(pod, open)).rejects.toBeInstanceOf(SidecarError);
  const { options, record } = sidecars.served(pod) ?? {};
  expect(options).toBeUndefined();
  expect(record).toMatchObject({
    state: "failed",
    failure: {
      kind: "rules",
      message: expect.stringContaining('interceptionMode="BOTH"'),
      remedy: "change it where the pod is made, in its template: the next pod has it",
    },
  });
});
