// SPDX-License-Identifier: Apache-2.0
// A pod as Istio's injector leaves it where a node agent is to write its rules. Source: istio/istio
// manifests/charts/istio-control/istio-discovery/files/injection-template.yaml, with pilot.cni.enabled.

/** What differs from one injected pod to the next. */
export interface Injection {
  readonly annotations?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
  readonly args?: readonly string[];
  readonly securityContext?: Readonly<Record<string, unknown>>;
  /** The proxy is an init container that stays. */
  readonly isNative?: boolean;
  /** The container that writes rules itself, as without a node agent. */
  readonly hasInit?: boolean;
}

/** Annotations and the object's `spec`. */
export function injectedPod({
  annotations = {},
  env = {},
  args = ["proxy", "sidecar", "--domain", "mesh.svc.cluster.local"],
  securityContext = { runAsUser: 1337, runAsGroup: 1337 },
  isNative = false,
  hasInit = false,
}: Injection = {}): {
  annotations: Record<string, string>;
  objectSpec: Record<string, unknown>;
} {
  const proxy = {
    name: "istio-proxy",
    image: "proxyv2",
    args,
    env: [
      { name: "PILOT_CERT_PROVIDER", value: "istiod" },
      { name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
      ...Object.entries(env).map(([name, value]) => ({ name, value })),
    ],
    securityContext,
  };
  const check = { name: hasInit ? "istio-init" : "istio-validation", image: "proxyv2" };
  const app = { name: "app", image: "app" };
  return {
    annotations: {
      "sidecar.istio.io/status": '{"initContainers":["istio-validation"]}',
      "sidecar.istio.io/interceptionMode": "REDIRECT",
      "traffic.sidecar.istio.io/includeOutboundIPRanges": "*",
      "traffic.sidecar.istio.io/includeInboundPorts": "*",
      "traffic.sidecar.istio.io/excludeInboundPorts": "15020",
      ...annotations,
    },
    objectSpec: isNative
      ? { initContainers: [check, { ...proxy, restartPolicy: "Always" }], containers: [app] }
      : { initContainers: [check], containers: [app, proxy] },
  };
}
