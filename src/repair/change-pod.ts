// SPDX-License-Identifier: Apache-2.0
// What the API server is asked to do about a broken pod: nothing, unless it is still the very pod that was looked at.
import { type ApiClient, podPath } from "../kube/api-client.ts";
import { ApiError } from "../kube/api-error.ts";
import type { RepairSettings } from "../settings/repair-settings.ts";
import type { SuspectPod } from "./suspect-pod.ts";

/** Deletes it, with its grace period. @throws ApiError; see {@link hasChanged} */
export async function deletePod(
  { namespace, name, uid, resourceVersion }: SuspectPod,
  { client, signal }: { readonly client: Pick<ApiClient, "delete">; readonly signal: AbortSignal },
): Promise<void> {
  await client.delete(podPath(namespace, name), { uid, resourceVersion }, { signal });
}

/** Labels it, through its status: the right to do that is the smaller one. @throws ApiError; see {@link hasChanged} */
export async function labelPod(
  { namespace, name, uid, resourceVersion }: SuspectPod,
  options: {
    readonly client: Pick<ApiClient, "mergePatch">;
    readonly label: Pick<RepairSettings, "labelKey" | "labelValue">;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { client, label, signal } = options;
  const labels = { [label.labelKey]: label.labelValue };
  // both in the patch: the server refuses it for another pod, and for another state of this one
  const patch = { metadata: { uid, resourceVersion, labels } };
  await client.mergePatch(podPath(namespace, name, "status"), patch, { signal });
}

/**
 * The pod is gone, another one has its name, or it has changed since it was looked at: nothing was done.
 * Source: Kubernetes API concepts, "Resource versions" (409); apimachinery ValidateObjectMetaUpdate (metadata.uid: 422).
 */
export function hasChanged(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  return (
    [404, 409, 410].includes(error.status) || (error.status === 422 && error.fields.includes("metadata.uid"))
  );
}
