// SPDX-License-Identifier: Apache-2.0
// The DaemonSet of the stand-in ztunnel, with the mounts, rights and probes of the real one.
import { ztunnelImage } from "./node-images.ts";

/** Where the stand-in serves its readiness and statistics. */
export const ztunnelHealthPort = 15021;

/** Source: istio/istio manifests/charts/ztunnel/templates/daemonset.yaml. */
export function ztunnelDaemonSet(name = "ztunnel"): object {
  return {
    apiVersion: "apps/v1",
    kind: "DaemonSet",
    metadata: { name, namespace: "istio-system", labels: { app: "ztunnel" } },
    spec: {
      selector: { matchLabels: { app: "ztunnel", set: name } },
      updateStrategy: { rollingUpdate: { maxUnavailable: 1 } },
      template: {
        metadata: {
          labels: {
            app: "ztunnel",
            set: name,
            "sidecar.istio.io/inject": "false",
            "istio.io/dataplane-mode": "none",
          },
        },
        spec: {
          priorityClassName: "system-node-critical",
          terminationGracePeriodSeconds: 30,
          nodeSelector: { "kubernetes.io/os": "linux" },
          tolerations: [
            { effect: "NoSchedule", operator: "Exists" },
            { effect: "NoExecute", operator: "Exists" },
          ],
          containers: [container],
          volumes: [
            {
              name: "cni-ztunnel-sock-dir",
              hostPath: { path: "/var/run/ztunnel", type: "DirectoryOrCreate" },
            },
            { name: "tmp", emptyDir: {} },
          ],
        },
      },
    },
  };
}

const container = {
  name: "istio-proxy",
  image: ztunnelImage,
  imagePullPolicy: "Never",
  args: ["--socket", "/var/run/ztunnel/ztunnel.sock", "--depth", "sockets"],
  readinessProbe: { httpGet: { path: "/healthz/ready", port: ztunnelHealthPort }, periodSeconds: 1 },
  resources: { requests: { cpu: "100m", memory: "64Mi" } },
  securityContext: {
    allowPrivilegeEscalation: true,
    privileged: false,
    capabilities: { drop: ["ALL"], add: ["NET_ADMIN", "SYS_ADMIN", "NET_RAW"] },
    readOnlyRootFilesystem: true,
    runAsGroup: 1337,
    runAsUser: 0,
    runAsNonRoot: false,
  },
  volumeMounts: [
    { mountPath: "/var/run/ztunnel", name: "cni-ztunnel-sock-dir" },
    { mountPath: "/tmp", name: "tmp" },
  ],
};
