// SPDX-License-Identifier: Apache-2.0
// Whether the API server answers and lets the agent do what it has to, asked in the agent's own name.
import type { AgentConfig } from "../config.ts";
import type { ApiClient } from "../kube/api-client.ts";
import { ApiError } from "../kube/api-error.ts";
import { recordOf, textOf } from "../kube/json-fields.ts";
import { type Finding, failing, fine, warning } from "./finding.ts";

/** What is needed of an API client. */
export type AccessReviewer = Pick<ApiClient, "create">;

/** One permission. */
interface Permission {
  readonly verb: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly use: string;
  /** Pods are captured without it. */
  readonly isOptional?: boolean;
}

const PERMISSIONS: readonly Permission[] = [
  { verb: "list", resource: "pods", use: "which pods are on the node" },
  { verb: "watch", resource: "pods", use: "which pods are on the node" },
  { verb: "get", resource: "pods", use: "a pod that the watch has not brought yet" },
  { verb: "list", resource: "namespaces", use: "labels of namespaces" },
  { verb: "watch", resource: "namespaces", use: "labels of namespaces" },
  { verb: "patch", resource: "pods", subresource: "status", use: "the annotation that istiod reads" },
  { verb: "create", resource: "events", use: "Events on pods", isOptional: true },
];

/** What a repair needs besides; a label is patched like the annotation. */
const DELETION: Permission = {
  verb: "delete",
  resource: "pods",
  use: "broken sidecar pods, REPAIR_DELETE_PODS",
  isOptional: true,
};

const REVIEW_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/** One finding: all is permitted, what is not, or why nobody answers. @param options.timeoutMs for all questions, default 2 s */
export async function checkApiPermissions(
  client: AccessReviewer,
  options: { timeoutMs?: number | undefined; repairMode?: AgentConfig["repair"]["mode"] } = {},
): Promise<Finding> {
  const signal = AbortSignal.timeout(options.timeoutMs ?? 2_000);
  const needed = options.repairMode === "delete" ? [...PERMISSIONS, DELETION] : PERMISSIONS;
  try {
    const answers = await Promise.all(needed.map((each) => isAllowed(client, each, signal)));
    const denied = needed.filter((_, index) => answers[index] === false);
    if (denied.length === 0 && answers.includes(undefined)) {
      const what = "the API server answers, but does not say what it permits (SelfSubjectAccessReview)";
      return warning(
        "api",
        what,
        "ask it with: kubectl auth can-i --list --as=system:serviceaccount:NAMESPACE:NAME",
      );
    }
    if (denied.length === 0) return fine("api", "the API server answers and permits what the agent needs");
    return deniedFinding(denied);
  } catch (error) {
    return unreachable(error);
  }
}

/** @returns undefined when the server has no such question */
async function isAllowed(
  client: AccessReviewer,
  { verb, resource, subresource }: Permission,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  const resourceAttributes = { verb, resource, subresource };
  const body = {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SelfSubjectAccessReview",
    spec: { resourceAttributes },
  };
  try {
    const { allowed } = recordOf(recordOf(await client.create(REVIEW_PATH, body, { signal })).status);
    return allowed === true;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 403)) return undefined;
    throw error;
  }
}

function deniedFinding(denied: readonly Permission[]): Finding {
  const list = denied.map(
    ({ verb, resource, subresource, use }) =>
      `${verb} ${resource}${subresource === undefined ? "" : `/${subresource}`} (${use})`,
  );
  const fix =
    "give the agent's service account the ClusterRole of the chart (deploy/chart/templates/rbac.yaml)";
  const make = denied.every(({ isOptional }) => isOptional === true) ? warning : failing;
  return make("api", `the API server does not permit: ${list.join(", ")}`, fix);
}

function unreachable(error: unknown): Finding {
  const { message, name } = error as Error;
  const why = name === "TimeoutError" ? "no answer in time" : textOf(message);
  const isRefused = error instanceof ApiError && error.status === 401;
  const fix = isRefused
    ? "the token is not valid: look at the agent's service account and at the node's clock"
    : "check that this node reaches the API server (address and port in the message), and what KUBECONFIG says";
  return failing("api", `the API server cannot be asked: ${why}`, fix);
}
