// SPDX-License-Identifier: Apache-2.0
// Which pods have a proxy that waits for rules, and what is kept of it; also of objects that are not what they should be.
import { expect, test } from "vitest";
import { pickFields } from "../../src/kube/pick-fields.ts";
import { podFields, toPodFacts } from "../../src/kube/pod-facts.ts";
import { sidecarAnnotations } from "../../src/redirection/sidecar-options.ts";
import { type Injection, injectedPod } from "../support/node/injected-pod.ts";

const none = { dnsCapture: false, dualStack: false, dropInvalid: false };
const default_ = { uid: 1337, gid: 1337, ...none };

function factsOf(spec: unknown, annotations: Record<string, string> = {}) {
  const pod = { metadata: { uid: "u", namespace: "n", name: "p", annotations }, spec };
  const picked = toPodFacts(pickFields(Buffer.from(JSON.stringify(pod)), podFields));
  // the whole object says the same as what is read of it
  expect(picked).toEqual(toPodFacts(pod));
  return picked;
}

function sidecarOf(injection: Injection) {
  return factsOf(injectedPod(injection).objectSpec)?.sidecar;
}

test.each<[Injection, object]>([
  [{}, default_],
  [{ isNative: true }, default_],
  [{ securityContext: { runAsUser: 5 } }, { uid: 5, ...none }],
  [{ securityContext: {} }, none],
  [{ securityContext: { runAsUser: "5", runAsGroup: -1 } }, none],
  [{ securityContext: { runAsUser: 2 ** 32, runAsGroup: 1.5 } }, none],
  [{ env: { ISTIO_META_DNS_CAPTURE: "true" } }, { ...default_, dnsCapture: true }],
  [{ env: { ISTIO_META_DNS_CAPTURE: "yes" } }, default_],
  [
    { env: { ISTIO_DUAL_STACK: "1", INVALID_DROP: "T" } },
    { ...default_, dualStack: true, dropInvalid: true },
  ],
  [{ env: { DISABLE_ENVOY: "false" } }, default_],
  [{ env: { DISABLE_ENVOY: "maybe" } }, default_],
  [{ args: [] }, default_],
  [{ args: ["proxy"] }, default_],
  [{ args: ["something", "router"] }, default_],
])("the proxy of %j waits for rules", (injection, expected) => {
  expect(sidecarOf(injection)).toEqual(expected);
});

test.each<Injection>([
  { hasInit: true },
  { hasInit: true, isNative: true },
  { env: { DISABLE_ENVOY: "true" } },
  { args: ["proxy", "router"] },
  { args: ["proxy", "waypoint"] },
])("that of %j waits for none", (injection) => {
  expect(sidecarOf(injection)).toBeUndefined();
});

test("a pod with users of its own is known", () => {
  expect(factsOf({ ...injectedPod().objectSpec, hostUsers: false })?.sidecar).toEqual({
    ...default_,
    ownUsers: true,
  });
  expect(factsOf({ ...injectedPod().objectSpec, hostUsers: true })?.sidecar).toEqual(default_);
});

test.each([
  undefined,
  {},
  { containers: "istio-proxy" },
  { containers: [null, 1, "istio-proxy", { name: { name: "istio-proxy" } }] },
  { containers: [{ name: "app" }] },
  // it ends before the app starts
  { initContainers: [{ name: "istio-proxy" }], containers: [{ name: "app" }] },
])("a pod with %j has none", (spec) => {
  expect(factsOf(spec)?.sidecar).toBeUndefined();
});

test.each([
  [{ containers: [{ name: "istio-proxy", env: "x", args: {}, securityContext: [] }] }, none],
  [{ containers: [{ name: "istio-proxy", env: [null, { name: "DISABLE_ENVOY" }, { value: "x" }] }] }, none],
])("a proxy that is not what it should be, %j, is one that says nothing", (spec, expected) => {
  expect(factsOf(spec)?.sidecar).toEqual(expected);
});

test("annotations of the redirection are kept of pods with such a proxy alone", () => {
  const names = Object.values(sidecarAnnotations);
  const annotations = Object.fromEntries(names.map((name) => [name, "x"]));
  expect(factsOf(injectedPod().objectSpec, annotations)?.annotations).toEqual(annotations);
  expect(factsOf({ containers: [{ name: "app" }] }, annotations)?.annotations).toEqual({
    [sidecarAnnotations.virtualInterfaces]: "x",
  });
});
