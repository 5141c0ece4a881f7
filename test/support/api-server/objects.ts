// SPDX-License-Identifier: Apache-2.0
// The objects the stub API server keeps, and the errors it answers with, in the shapes of the real one.

/** One Kubernetes object as JSON; everything below metadata is free form. */
export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta;
  spec?: Record<string, unknown>;
  status?: Record<string, unknown>;
  [field: string]: unknown;
}

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  [field: string]: unknown;
}

/** What the server knows about one kind of object. */
export interface ResourceKind {
  readonly kind: string;
  readonly apiVersion: string;
  readonly namespaced: boolean;
}

/** Every resource the stub serves, by the plural name in its URL. */
export const resourceKinds = {
  pods: { kind: "Pod", apiVersion: "v1", namespaced: true },
  namespaces: { kind: "Namespace", apiVersion: "v1", namespaced: false },
  events: { kind: "Event", apiVersion: "v1", namespaced: true },
  nodes: { kind: "Node", apiVersion: "v1", namespaced: false },
  daemonsets: { kind: "DaemonSet", apiVersion: "apps/v1", namespaced: true },
} as const satisfies Record<string, ResourceKind>;

export type ResourceName = keyof typeof resourceKinds;

export function isResourceName(name: string): name is ResourceName {
  return Object.hasOwn(resourceKinds, name);
}

/** The `Status` object of a failed request. */
export interface Status {
  readonly kind: "Status";
  readonly apiVersion: "v1";
  readonly metadata: Record<string, never>;
  readonly status: "Failure";
  readonly message: string;
  readonly reason: string;
  readonly details?: object;
  readonly code: number;
}

const reasons: Readonly<Record<number, string>> = {
  400: "BadRequest",
  401: "Unauthorized",
  403: "Forbidden",
  404: "NotFound",
  405: "MethodNotAllowed",
  406: "NotAcceptable",
  409: "Conflict",
  410: "Expired",
  415: "UnsupportedMediaType",
  422: "Invalid",
  429: "TooManyRequests",
  500: "InternalError",
  503: "ServiceUnavailable",
  504: "Timeout",
};

/** A failure that is answered as a `Status`. */
export class StatusError extends Error {
  readonly status: Status;

  constructor(code: number, message: string, extra: { reason?: string; details?: object } = {}) {
    super(message);
    this.status = {
      kind: "Status",
      apiVersion: "v1",
      metadata: {},
      status: "Failure",
      message,
      reason: extra.reason ?? reasons[code] ?? "Unknown",
      ...(extra.details === undefined ? {} : { details: extra.details }),
      code,
    };
  }
}

/** Applies a JSON merge patch and returns the new value; the inputs stay as they were. Source: RFC 7396, section 2. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const base = target !== null && typeof target === "object" && !Array.isArray(target) ? target : {};
  const result: Record<string, unknown> = { ...base };
  for (const [field, value] of Object.entries(patch)) {
    if (value === null) delete result[field];
    else result[field] = mergePatch(result[field], value);
  }
  return result;
}
