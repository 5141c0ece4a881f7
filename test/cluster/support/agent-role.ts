// SPDX-License-Identifier: Apache-2.0
// The agent's service account with exactly the permissions that it needs, and tokens for it.
import type { KubeAdmin } from "./kube-admin.ts";
import type { KubeNode } from "./kube-node.ts";

const account = "istio-cni";

/** The rules of the agent's ClusterRole: whatever else it asks for is refused. */
export const agentRules = [
  { apiGroups: [""], resources: ["pods", "namespaces"], verbs: ["get", "list", "watch"] },
  { apiGroups: [""], resources: ["pods/status"], verbs: ["patch"] },
  { apiGroups: [""], resources: ["events"], verbs: ["create", "patch"] },
] as const;

/** Creates service account, role and binding. */
export async function grantAgentRole(admin: KubeAdmin, namespace: string): Promise<void> {
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const metadata = { name: account };
  await admin.create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata });
  await admin.create(`${rbac}/clusterroles`, { metadata, rules: agentRules });
  await admin.create(`${rbac}/clusterrolebindings`, {
    metadata,
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: account },
    subjects: [{ kind: "ServiceAccount", name: account, namespace }],
  });
}

/** Makes the agent's namespace and account; returns the path of a kubeconfig with a token for it. */
export async function agentKubeconfig(kube: KubeNode): Promise<string> {
  const namespace = "istio-system";
  await kube.admin.create("/api/v1/namespaces", { metadata: { name: namespace } });
  await grantAgentRole(kube.admin, namespace);
  return kube.tokenKubeconfig(await requestToken(kube.admin, namespace));
}

/** A token as the kubelet gives it to the agent's pod; it ends with the object it is bound to. */
export async function requestToken(
  admin: KubeAdmin,
  namespace: string,
  boundTo?: { kind: string; apiVersion: string; name: string; uid: string },
): Promise<string> {
  const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`;
  const spec = { expirationSeconds: 3600, ...(boundTo === undefined ? {} : { boundObjectRef: boundTo }) };
  const request = { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", metadata: {}, spec };
  return (await admin.create(path, request)).status.token as string;
}
