// SPDX-License-Identifier: Apache-2.0
// The stub API server's create, update, patch and delete, with the checks of the real one that clients trip over.
import type { ObjectStore } from "./object-store.ts";
import { type KubeObject, mergePatch, resourceKinds, StatusError } from "./objects.ts";
import type { RequestTarget } from "./request-target.ts";

/** Carries out one write and returns the object it leaves behind. @throws StatusError */
export function applyWrite(
  store: ObjectStore,
  target: RequestTarget,
  request: { contentType: string; body: unknown },
): KubeObject {
  switch (target.verb) {
    case "create":
      return create(store, target, request.body);
    case "update":
      return replace(store, target, request.body);
    case "patch":
      return patch(store, target, request);
    case "delete":
      return remove(store, target, request.body);
    default:
      throw new StatusError(405, `the server does not allow this method: ${target.verb}`);
  }
}

function objectOf(body: unknown): KubeObject {
  const object = body as KubeObject | undefined;
  if (typeof object?.metadata !== "object")
    throw new StatusError(400, "the body is not an object with metadata");
  return object;
}

function create(store: ObjectStore, target: RequestTarget, body: unknown): KubeObject {
  const object = structuredClone(objectOf(body));
  const { namespace } = target;
  if (typeof object.metadata.generateName === "string" && object.metadata.name === undefined) {
    object.metadata.name = object.metadata.generateName + Math.random().toString(36).slice(2, 7);
  }
  if (!object.metadata.name) throw new StatusError(422, "name or generateName is required");
  if (resourceKinds[target.resource].namespaced) {
    if (namespace === undefined) throw new StatusError(405, "a namespace is required");
    object.metadata.namespace = namespace;
    store.get("namespaces", namespace);
  }
  delete object.metadata.uid;
  delete object.metadata.resourceVersion;
  return store.create(target.resource, object);
}

function replace(store: ObjectStore, target: RequestTarget, body: unknown): KubeObject {
  const existing = store.get(target.resource, target.name ?? "", target.namespace);
  const object = objectOf(body);
  checkIdentity(existing, object, target);
  return store.update(target.resource, limitTo(target.subresource, existing, object));
}

function patch(
  store: ObjectStore,
  target: RequestTarget,
  request: { contentType: string; body: unknown },
): KubeObject {
  const merging = ["application/merge-patch+json", "application/strategic-merge-patch+json"];
  if (!merging.includes(request.contentType.split(";")[0] ?? "")) {
    throw new StatusError(415, `the body of the request was in an unknown format: ${request.contentType}`);
  }
  const existing = store.get(target.resource, target.name ?? "", target.namespace);
  const patched = mergePatch(existing, request.body) as KubeObject;
  checkIdentity(existing, patched, target);
  return store.update(target.resource, limitTo(target.subresource, existing, patched));
}

/** Through `/status` the spec stays as it is, but labels and annotations do change. */
function limitTo(subresource: string | undefined, existing: KubeObject, wanted: KubeObject): KubeObject {
  if (subresource === undefined) return wanted;
  if (subresource !== "status")
    throw new StatusError(404, "the server could not find the requested resource");
  const { labels, annotations } = wanted.metadata;
  const metadata = { ...existing.metadata };
  delete metadata.labels;
  delete metadata.annotations;
  if (labels !== undefined) metadata.labels = labels;
  if (annotations !== undefined) metadata.annotations = annotations;
  const result: KubeObject = { ...existing, metadata };
  if (wanted.status !== undefined) result.status = wanted.status;
  return result;
}

function checkIdentity(existing: KubeObject, wanted: KubeObject, target: RequestTarget): void {
  const { name, uid, resourceVersion } = wanted.metadata;
  if (uid !== undefined && uid !== existing.metadata.uid) {
    const field = "metadata.uid";
    const message = `Invalid value: "${uid}": field is immutable`;
    const { kind } = resourceKinds[target.resource];
    throw new StatusError(422, `${kind} "${name}" is invalid: ${field}: ${message}`, {
      details: { name, kind, causes: [{ reason: "FieldValueInvalid", field, message }] },
    });
  }
  if (resourceVersion !== undefined && resourceVersion !== existing.metadata.resourceVersion) {
    throw new StatusError(
      409,
      `Operation cannot be fulfilled on ${target.resource} "${name}": the object has been modified; please apply your changes to the latest version and try again`,
    );
  }
}

/** A scheduled pod first gets a deletion timestamp and goes with a second delete or grace period 0, as on a real node. */
function remove(store: ObjectStore, target: RequestTarget, body: unknown): KubeObject {
  const name = target.name ?? "";
  const existing = store.get(target.resource, name, target.namespace);
  const options = body as { gracePeriodSeconds?: number; preconditions?: Preconditions } | undefined;
  checkPreconditions(existing, options?.preconditions ?? {}, target);
  const fromBody = options?.gracePeriodSeconds;
  const graceSeconds = fromBody ?? Number(target.query.get("gracePeriodSeconds") ?? 30);
  const waits = target.resource === "pods" && existing.spec?.nodeName !== undefined && graceSeconds > 0;
  if (!waits) return store.delete(target.resource, name, target.namespace);
  const marked = structuredClone(existing);
  marked.metadata.deletionTimestamp ??= new Date(Date.now() + graceSeconds * 1000).toISOString();
  marked.metadata.deletionGracePeriodSeconds ??= graceSeconds;
  return store.update("pods", marked);
}

interface Preconditions {
  readonly uid?: string;
  readonly resourceVersion?: string;
}

/** Source: kubernetes apiserver pkg/storage/interfaces.go, Preconditions.Check; registry/generic/registry/store.go, Delete. */
function checkPreconditions(
  { metadata }: KubeObject,
  { uid = metadata.uid, resourceVersion = metadata.resourceVersion }: Preconditions,
  { resource, name }: RequestTarget,
): void {
  const differing =
    uid !== metadata.uid
      ? `UID in precondition: ${uid}, UID in object meta: ${metadata.uid}`
      : resourceVersion !== metadata.resourceVersion
        ? `ResourceVersion in precondition: ${resourceVersion}, ResourceVersion in object meta: ${metadata.resourceVersion}`
        : undefined;
  if (differing === undefined) return;
  throw new StatusError(
    409,
    `Operation cannot be fulfilled on ${resource} "${name}": Precondition failed: ${differing}`,
  );
}
