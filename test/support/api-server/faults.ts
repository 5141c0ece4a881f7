// SPDX-License-Identifier: Apache-2.0
// The bad days of an API server, as switches that can be thrown while it runs.
import { type ResourceName, StatusError } from "./objects.ts";
import type { RequestTarget } from "./request-target.ts";

export type Verb = "get" | "list" | "watch" | "create" | "update" | "patch" | "delete";

/** A failure answered instead of the real result; without `times` it stays until cleared. */
export interface FailRule {
  status: number;
  verb?: Verb;
  resource?: ResourceName;
  /** Only for requests from this version on. */
  resourceVersion?: string;
  reason?: string;
  message?: string;
  /** `details` of the Status. */
  details?: object;
  times?: number;
  retryAfterSeconds?: number;
  /** Sent in place of a Status: the answer of a load balancer or proxy that has no API server behind it. */
  text?: string;
}

/** Switches; a number counts down with each use, a boolean stays until set back. */
export interface Faults {
  /** The next watches are answered with 410, as an ERROR event (what real servers do) or as the HTTP status. */
  goneOnWatch: number;
  goneAs: "event" | "status";
  /** Requests are accepted and never answered, open watches fall silent: a half-open connection. */
  hang: boolean;
  /** The next lists break off halfway through the body. */
  cutLists: number;
  /** A list's body is stretched over this time. */
  slowListMs: number;
  /** The next list pages after the first are answered with 410, as when the continue token has expired. */
  expireContinue: number;
  duplicateEvents: boolean;
  /** Each event is held back and sent after the one that follows it (or after 50 ms). */
  swapEvents: boolean;
  /** The next events are sent as text that is not JSON. */
  garbleEvents: number;
  /** `sendInitialEvents` is answered with 422, as by servers before 1.27. */
  rejectSendInitialEvents: boolean;
  /** Metadata-only lists are answered with 406. */
  rejectPartialMetadata: boolean;
  /**
   * `/readyz` has this status, as of a server that has not read all that it answers from: 500, or 403 before it knows of any role.
   * Source: kube-apiserver 1.36, asked from its first moment on; issue kubernetes/kubernetes 121635.
   */
  unready: 500 | 403 | undefined;
  failures: FailRule[];
}

/** All switches off. */
export function noFaults(): Faults {
  return {
    goneOnWatch: 0,
    goneAs: "event",
    hang: false,
    cutLists: 0,
    slowListMs: 0,
    expireContinue: 0,
    duplicateEvents: false,
    swapEvents: false,
    garbleEvents: 0,
    rejectSendInitialEvents: false,
    rejectPartialMetadata: false,
    unready: undefined,
    failures: [],
  };
}

type Counted = "goneOnWatch" | "cutLists" | "garbleEvents" | "expireContinue";

/** Uses up one count of a switch and tells whether it was on. */
export function takeFault(faults: Faults, name: Counted): boolean {
  if (faults[name] <= 0) return false;
  faults[name] -= 1;
  return true;
}

/** Finds the failure configured for a request, counts it down and returns it. */
export function takeFailure(
  faults: Faults,
  { verb, resource, query }: Pick<RequestTarget, "verb" | "resource" | "query">,
): FailRule | undefined {
  const version = query.get("resourceVersion");
  const index = faults.failures.findIndex(
    (rule) =>
      (rule.verb ?? verb) === verb &&
      (rule.resource ?? resource) === resource &&
      (rule.resourceVersion ?? version) === version,
  );
  const rule = faults.failures[index];
  if (rule === undefined) return undefined;
  if (rule.times !== undefined) {
    rule.times -= 1;
    if (rule.times <= 0) faults.failures.splice(index, 1);
  }
  return rule;
}

/** The error a rule stands for. */
export function failureError(rule: FailRule, verb: Verb, resource: ResourceName): StatusError {
  const message = rule.message ?? `stub: ${verb} ${resource} answered with ${rule.status}`;
  const { reason, details } = rule;
  return new StatusError(rule.status, message, {
    ...(reason === undefined ? {} : { reason }),
    ...(details === undefined ? {} : { details }),
  });
}
