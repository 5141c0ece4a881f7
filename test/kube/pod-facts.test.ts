// SPDX-License-Identifier: Apache-2.0
// From the API's JSON to facts, also when the JSON is not what it should be.
import { expect, test } from "vitest";
import { pickFields } from "../../src/kube/pick-fields.ts";
import {
  isAnnouncementAlone,
  namespaceFields,
  type PodFacts,
  podFields,
  sameFacts,
  toNamespaceFacts,
  toPodFacts,
} from "../../src/kube/pod-facts.ts";

const whole = {
  kind: "Pod",
  metadata: {
    uid: "u1",
    name: "web-0",
    namespace: "shop",
    resourceVersion: "77",
    deletionTimestamp: "2026-01-01T00:00:00Z",
    labels: { app: "web", "istio.io/dataplane-mode": "ambient" },
    annotations: {
      "ambient.istio.io/redirection": "enabled",
      "sidecar.istio.io/status": "{}",
      "ambient.istio.io/bypass-inbound-capture": "true",
      "ambient.istio.io/dns-capture": "false",
      "istio.io/reroute-virtual-interfaces": "net1",
      "kubernetes.io/config.hash": "h",
      "kubernetes.io/config.mirror": "m",
      "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1000),
    },
    ownerReferences: [
      { kind: "Node", name: "n1" },
      { kind: "DaemonSet", name: "istio-cni-node", controller: true },
    ],
  },
  spec: { nodeName: "n1", serviceAccountName: "web", hostNetwork: true, containers: [{ name: "c" }] },
  status: {
    phase: "Running",
    podIP: "10.0.0.9",
    podIPs: [{ ip: "10.0.0.9" }, { ip: "fd00::9" }, { ip: "10.0.0.9" }],
    initContainerStatuses: [{ containerID: "containerd://aa11" }],
    containerStatuses: [{ containerID: "cri-o://bb22" }, { state: { waiting: {} } }, { containerID: "" }],
    ephemeralContainerStatuses: [{ containerID: "docker://cc33" }],
  },
};

test("a whole pod gives all facts and drops the rest", () => {
  const { "kubectl.kubernetes.io/last-applied-configuration": _, ...annotations } =
    whole.metadata.annotations;
  expect(toPodFacts(whole)).toEqual({
    key: "u1",
    uid: "u1",
    namespace: "shop",
    name: "web-0",
    serviceAccount: "web",
    nodeName: "n1",
    hostNetwork: true,
    phase: "Running",
    ips: ["10.0.0.9", "fd00::9"],
    labels: whole.metadata.labels,
    annotations,
    containerIds: ["aa11", "bb22", "cc33"],
    ownerDaemonSet: "istio-cni-node",
    deletionTimestamp: true,
    resourceVersion: "77",
  });
});

test("a bare pod gives empty facts", () => {
  expect(toPodFacts({ metadata: { uid: "u", name: "n", namespace: "s" } })).toEqual({
    key: "u",
    uid: "u",
    namespace: "s",
    name: "n",
    serviceAccount: "default",
    nodeName: "",
    hostNetwork: false,
    phase: "",
    ips: [],
    labels: {},
    annotations: {},
    containerIds: [],
    resourceVersion: "",
  });
});

const identity = { uid: "u", name: "n", namespace: "s" };

test.each([
  ["labels is a list", { metadata: { ...identity, labels: ["a"] } }, { labels: {} }],
  ["a label is a number", { metadata: { ...identity, labels: { a: 1, b: "2" } } }, { labels: { b: "2" } }],
  ["annotations is text", { metadata: { ...identity, annotations: "x" } }, { annotations: {} }],
  [
    "podIPs is a map",
    { metadata: identity, status: { podIPs: {}, podIP: "10.1.1.1" } },
    { ips: ["10.1.1.1"] },
  ],
  [
    "an address is none",
    { metadata: identity, status: { podIPs: [{ ip: "10.0.0.300" }, { ip: null }, 7] } },
    { ips: [] },
  ],
  ["spec is null", { metadata: identity, spec: null, status: null }, { nodeName: "", phase: "" }],
  ["hostNetwork is text", { metadata: identity, spec: { hostNetwork: "true" } }, { hostNetwork: false }],
  [
    "only the old serviceAccount is set",
    { metadata: identity, spec: { serviceAccount: "old" } },
    { serviceAccount: "old" },
  ],
  [
    "containerStatuses holds rubbish",
    { metadata: identity, status: { containerStatuses: [null, 1, { containerID: 5 }] } },
    { containerIds: [] },
  ],
  [
    "an id has no runtime",
    { metadata: identity, status: { containerStatuses: [{ containerID: "dd44" }] } },
    { containerIds: ["dd44"] },
  ],
])("facts are tolerant when %s", (_, raw, expected) => {
  expect(toPodFacts(raw)).toMatchObject(expected);
});

test("an owner counts only when it is a DaemonSet in control", () => {
  const owned = (ownerReferences: unknown) =>
    toPodFacts({ metadata: { ...identity, ownerReferences } })?.ownerDaemonSet;
  expect(owned([{ kind: "DaemonSet", name: "d", controller: false }])).toBeUndefined();
  expect(owned([{ kind: "ReplicaSet", name: "r", controller: true }])).toBeUndefined();
  expect(owned("x")).toBeUndefined();
  expect(owned([{ kind: "DaemonSet", name: "d", controller: true }])).toBe("d");
});

test.each([
  undefined,
  null,
  7,
  "pod",
  [],
  {},
  { metadata: null },
  { metadata: { uid: "u", name: "n" } },
  { metadata: { uid: "u", namespace: "s" } },
  { metadata: { name: "n", namespace: "s" } },
  { metadata: { uid: 5, name: "n", namespace: "s" } },
])("there are no pod facts when the object is %j", (raw) => {
  expect(toPodFacts(raw)).toBeUndefined();
});

test.each([
  [
    { metadata: { name: "shop", uid: "u1", labels: { a: "b" }, resourceVersion: "5" } },
    { key: "shop", name: "shop", uid: "u1", labels: { a: "b" }, resourceVersion: "5" },
  ],
  [
    { kind: "PartialObjectMetadata", metadata: { name: "x" } },
    { key: "x", name: "x", uid: "", labels: {}, resourceVersion: "" },
  ],
  [{ metadata: {} }, undefined],
  [null, undefined],
])("namespace facts of %j", (raw, expected) => {
  expect(toNamespaceFacts(raw)).toEqual(expected);
});

test("facts are the same when only the version differs", () => {
  const facts = toPodFacts(whole)!;
  expect(sameFacts(facts, { ...facts, resourceVersion: "78" })).toBe(true);
  expect(sameFacts(facts, { ...facts, ips: ["10.0.0.9"] })).toBe(false);
  expect(sameFacts(facts, { ...facts, labels: { ...facts.labels, x: "y" } })).toBe(false);
});

const shouted = "x".repeat(320);

test.each([
  ["the uid", { metadata: { ...identity, uid: shouted } }],
  ["the name", { metadata: { ...identity, name: shouted } }],
  ["the namespace", { metadata: { ...identity, namespace: "x".repeat(64) } }],
])("there are no pod facts when %s is longer than can be", (_, raw) => {
  expect(toPodFacts(raw)).toBeUndefined();
});

test.each([
  [
    "node and service account",
    { spec: { nodeName: shouted, serviceAccountName: shouted } },
    { nodeName: "", serviceAccount: "default" },
  ],
  ["phase", { status: { phase: shouted } }, { phase: "" }],
  ["an address", { status: { podIPs: [{ ip: shouted }, { ip: "10.0.0.1" }] } }, { ips: ["10.0.0.1"] }],
  [
    "a container id",
    { status: { containerStatuses: [{ containerID: shouted }, { containerID: "c://a" }] } },
    { containerIds: ["a"] },
  ],
])("facts leave out %s that is longer than can be", (_, raw, expected) => {
  expect(toPodFacts({ metadata: identity, ...raw })).toMatchObject(expected);
});

test("a hundred thousand of everything become a bounded few, and the labels that decide stay", () => {
  const many = Array.from({ length: 100_000 }, (_, index) => index);
  const labels = Object.fromEntries(many.map((index) => [`a${index}`, "v"]));
  const facts = toPodFacts({
    metadata: { ...identity, labels: { ...labels, "istio.io/dataplane-mode": "none", app: "web" } },
    status: {
      podIPs: many.map((index) => ({ ip: `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}` })),
      containerStatuses: many.map((index) => ({ containerID: `containerd://${index}` })),
    },
  })!;
  expect(Object.keys(facts.labels)).toHaveLength(256);
  expect(facts.labels).toMatchObject({ "istio.io/dataplane-mode": "none", app: "web" });
  expect(facts.excess).toEqual(["Cannot use all of its labels: only 256 count"]);
  expect(facts.ips).toHaveLength(8);
  expect(facts.containerIds).toHaveLength(256);
});

test("labels that cannot be labels are left out", () => {
  const labels = {
    [shouted]: "v",
    [`${"p".repeat(253)}/${"n".repeat(63)}`]: "v".repeat(63),
    long: "v".repeat(64),
  };
  const { labels: kept } = toNamespaceFacts({ metadata: { name: "shop", labels } })!;
  expect(kept).toEqual({ [`${"p".repeat(253)}/${"n".repeat(63)}`]: "v".repeat(63) });
});

test("labels without end are picked as they are converted", () => {
  const many = Object.fromEntries(Array.from({ length: 70_000 }, (_, index) => [`l${index}`, "v"]));
  for (const more of [{}, { "istio.io/dataplane-mode": "none", app: "web" }]) {
    const raw = { metadata: { ...identity, labels: { ...many, ...more } } };
    const facts = toPodFacts(pickFields(Buffer.from(JSON.stringify(raw)), podFields));
    expect(facts).toEqual(toPodFacts(raw));
    expect(facts?.labels).toMatchObject(more);
  }
});

test.each(["!,", "\u0001", "😀", "<", "\\"])(
  "an annotation of %j without end is picked as it is converted",
  (unit) => {
    const annotations = { "istio.io/reroute-virtual-interfaces": unit.repeat((256 << 10) / unit.length) };
    const raw = { metadata: { ...identity, annotations } };
    const text = JSON.stringify(raw).replaceAll("<", "\\u003c");
    expect(toPodFacts(pickFields(Buffer.from(text), podFields))).toEqual(toPodFacts(raw));
  },
);

test("the fields that are picked are all that facts are made of", () => {
  const bytes = Buffer.from(JSON.stringify(whole));
  expect(toPodFacts(pickFields(bytes, podFields))).toEqual(toPodFacts(whole));
  const old = { metadata: identity, spec: { serviceAccount: "old" }, status: { podIP: "10.1.1.1" } };
  expect(toPodFacts(pickFields(Buffer.from(JSON.stringify(old)), podFields))).toEqual(toPodFacts(old));
  expect(toNamespaceFacts(pickFields(bytes, namespaceFields))).toEqual(toNamespaceFacts(whole));
});

test("the agent's own word on a pod is told from whatever else comes to it", () => {
  const now = { ...(toPodFacts(whole) as PodFacts), resourceVersion: "78" };
  const { "ambient.istio.io/redirection": _, ...others } = now.annotations;
  const before = { ...now, annotations: others, resourceVersion: "77" };
  expect(isAnnouncementAlone(before, now)).toBe(true);
  // taken away, again, by another, with something else
  expect(isAnnouncementAlone(now, before)).toBe(false);
  expect(isAnnouncementAlone(now, now)).toBe(false);
  const pending = { ...now, annotations: { ...others, "ambient.istio.io/redirection": "pending" } };
  expect(isAnnouncementAlone(before, pending)).toBe(false);
  expect(isAnnouncementAlone(before, { ...now, ips: ["10.0.0.10"] })).toBe(false);
  expect(isAnnouncementAlone(before, { ...now, labels: {} })).toBe(false);
  const more = { ...now, annotations: { ...now.annotations, "ambient.istio.io/dns-capture": "true" } };
  expect(isAnnouncementAlone(before, more)).toBe(false);
});
