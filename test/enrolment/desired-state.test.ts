// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from "vitest";
import { decideEnrolment, type EnrolmentPolicy } from "../../src/enrolment/desired-state.ts";
import type { NamespaceFacts, PodFacts } from "../../src/kube/pod-facts.ts";
import { defaultSelectors } from "../../src/kube/selectors.ts";

const mode = "istio.io/dataplane-mode";
const policy: EnrolmentPolicy = {
  selectors: defaultSelectors,
  excludeNamespaces: new Set(["kube-system"]),
  systemNamespace: "istio-system",
  agentNamespace: "istio-cni",
  dnsCapture: true,
  probeSnatV4: "169.254.7.127",
  probeSnatV6: "fd16::1",
  establishedConnections: "keep",
};

function pod(change: Partial<PodFacts> = {}): PodFacts {
  return {
    key: "u1",
    uid: "u1",
    namespace: "shop",
    name: "web",
    serviceAccount: "default",
    nodeName: "node1",
    hostNetwork: false,
    phase: "Running",
    ips: ["10.0.0.1"],
    labels: {},
    annotations: {},
    containerIds: [],
    resourceVersion: "1",
    ...change,
  };
}

function namespace(labels: Record<string, string> = {}, name = "shop"): NamespaceFacts {
  return { key: name, name, uid: "", labels, resourceVersion: "1" };
}

const ambient = { [mode]: "ambient" };
const none = { [mode]: "none" };

describe("decideEnrolment", () => {
  test.each(["keep", "reset"] as const)(
    "takes what happens to open connections from the settings: %s",
    (chosen) => {
      const following = { ...policy, establishedConnections: chosen };
      expect(decideEnrolment(pod(), namespace(ambient), following)).toMatchObject({
        redirect: { establishedConnections: chosen },
      });
    },
  );

  const selected: readonly [string, Record<string, string>, Record<string, string>, boolean][] = [
    ["nothing labelled", {}, {}, false],
    ["the namespace", {}, ambient, true],
    ["the pod alone", ambient, {}, true],
    ["a pod opting out of its namespace", none, ambient, false],
    ["a pod opting into an opted-out namespace", ambient, none, true],
    ["another mode", { [mode]: "sidecar" }, {}, false],
    ["a pod of another mode in the namespace", { [mode]: "other" }, ambient, true],
  ];
  test.each(selected)("with %s", (_name, podLabels, namespaceLabels, wanted) => {
    expect(decideEnrolment(pod({ labels: podLabels }), namespace(namespaceLabels), policy).wanted).toBe(
      wanted,
    );
  });

  const sidecar = { dnsCapture: false, dualStack: false, dropInvalid: false };
  const inject = "sidecar.istio.io/inject";
  const excluded: readonly [string, Partial<PodFacts>][] = [
    ["host-network", { hostNetwork: true }],
    ["sidecar", { annotations: { "sidecar.istio.io/status": "{}" } }],
    ["sidecar-served", { annotations: { "sidecar.istio.io/status": "{}" }, sidecar }],
    ["sidecar", { annotations: { "sidecar.istio.io/status": "{}" }, sidecar, labels: { [inject]: "false" } }],
    ["ztunnel", { namespace: "istio-system", labels: { ...ambient, app: "ztunnel" } }],
    ["agent", { namespace: "istio-system", ownerDaemonSet: "istio-cni-node" }],
    ["agent", { namespace: "istio-cni", ownerDaemonSet: "ambient-cni-node" }],
    ["excluded-namespace", { namespace: "kube-system" }],
    ["terminated", { phase: "Succeeded" }],
    ["terminated", { phase: "Failed" }],
  ];
  test.each(excluded)("no selector undoes %s", (reason, change) => {
    const wanted = pod({ labels: ambient, ...change });
    expect(decideEnrolment(wanted, namespace(ambient, wanted.namespace), policy)).toEqual({
      wanted: false,
      reason,
    });
  });

  test("a tenant's DaemonSet of the agent's name is an application", () => {
    expect(
      decideEnrolment(pod({ ownerDaemonSet: "istio-cni-node" }), namespace(ambient), policy).wanted,
    ).toBe(true);
  });

  test("an application called ztunnel outside the system namespace is an application", () => {
    expect(decideEnrolment(pod({ labels: { app: "ztunnel" } }), namespace(ambient), policy).wanted).toBe(
      true,
    );
  });

  test("annotations of the pod change its redirection, bad ones are warned about", () => {
    const annotations = {
      "ambient.istio.io/bypass-inbound-capture": "T",
      "ambient.istio.io/dns-capture": "nope",
      "istio.io/reroute-virtual-interfaces": "tap0, tap1",
    };
    expect(
      decideEnrolment(pod({ annotations }), namespace(ambient), { ...policy, dnsCapture: false }),
    ).toMatchObject({
      wanted: true,
      redirect: { ingressMode: true, dnsCapture: false, virtualInterfaces: ["tap0", "tap1"] },
      warnings: [expect.stringContaining("dns-capture")],
    });
  });
});
