// SPDX-License-Identifier: Apache-2.0
// Which injected pods are given rules.
import { expect, test } from "vitest";
import { awaitsRules, sidecarOptionsOfPod } from "../../src/enrolment/sidecar-decision.ts";
import { NamespacePatterns } from "../../src/kube/namespace-patterns.ts";
import { type PodFacts, toPodFacts } from "../../src/kube/pod-facts.ts";
import { defaultSidecarOptions, sidecarAnnotations } from "../../src/redirection/sidecar-options.ts";
import { type Injection, injectedPod } from "../support/node/injected-pod.ts";

const excluded = new NamespacePatterns(["kube-*"]);
const iptables = { takesOwnUsers: false };
const inject = "sidecar.istio.io/inject";

function pod(
  injection: Injection = {},
  metadata: { readonly namespace?: string; readonly labels?: Record<string, string> } = {},
): PodFacts {
  const { annotations, objectSpec } = injectedPod(injection);
  const raw = {
    metadata: { uid: "u", namespace: "shop", name: "p", annotations, ...metadata },
    spec: objectSpec,
  };
  return toPodFacts(raw) as PodFacts;
}

test.each<[string, PodFacts, boolean]>([
  ["as the injector leaves it", pod(), true],
  ["with a native sidecar", pod({ isNative: true }), true],
  ["that writes its rules itself", pod({ hasInit: true }), false],
  [
    "without the injector's word",
    pod({ annotations: { "sidecar.istio.io/status": undefined as never } }),
    false,
  ],
  ["in a namespace that is left out", pod({}, { namespace: "kube-system" }), false],
  ["with the host's network", { ...pod(), hostNetwork: true }, false],
  ["that has ended", { ...pod(), phase: "Succeeded" }, false],
  ["whose injection is off by annotation", pod({ annotations: { [inject]: "false" } }), false],
  ["whose injection is off by label", pod({}, { labels: { [inject]: "0" } }), false],
  [
    "whose label counts before its annotation",
    pod({ annotations: { [inject]: "false" } }, { labels: { [inject]: "true" } }),
    true,
  ],
  ["whose word on it is none", pod({ annotations: { [inject]: "maybe" } }), true],
  [
    "that wants no redirection",
    pod({ annotations: { [sidecarAnnotations.interceptionMode]: "NONE" } }),
    false,
  ],
])("a pod %s: %s", (_, facts, expected) => {
  expect(awaitsRules(facts, excluded)).toBe(expected);
});

test("what the injector writes by default asks for the default rules", () => {
  expect(sidecarOptionsOfPod(pod(), iptables)).toEqual(defaultSidecarOptions());
});

test("a pod with users of its own is refused with the reason where its rules would be refused by the kernel", () => {
  const { annotations, objectSpec } = injectedPod();
  const metadata = { uid: "u", namespace: "shop", name: "p", annotations };
  const facts = toPodFacts({ metadata, spec: { ...objectSpec, hostUsers: false } }) as PodFacts;
  expect(awaitsRules(facts, excluded)).toBe(true);
  expect(() => sidecarOptionsOfPod(facts, iptables)).toThrow(
    /hostUsers: false.*NATIVE_NFTABLES=true, leave hostUsers out/,
  );
  expect(sidecarOptionsOfPod(facts, { takesOwnUsers: true })).toEqual(defaultSidecarOptions());
});

test("a pod's rules are what its annotations and its proxy ask for", () => {
  const facts = pod({
    annotations: { [sidecarAnnotations.includeInboundPorts]: "80" },
    env: { ISTIO_META_DNS_CAPTURE: "true" },
    securityContext: { runAsUser: 7 },
  });
  expect(sidecarOptionsOfPod(facts, iptables)).toMatchObject({
    includeInboundPorts: [80],
    dnsCapture: true,
    proxyUid: 7,
    proxyGid: 1337,
  });
});
