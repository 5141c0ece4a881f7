// SPDX-License-Identifier: Apache-2.0
// Why a request to the API server failed, in words an operator can act on.
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { listOf, recordOf, textOf, wordOf } from "./json-fields.ts";

/** What was asked, for messages. */
export interface AskedFor {
  readonly method: string;
  readonly path: string;
  /** "host:port" of the API server. */
  readonly server: string;
}

/**
 * A failed request.
 * `reason` is the server's (NotFound, Forbidden, Conflict, Expired, …) or, with status 0 (no usable answer),
 * one of Unreachable, ConnectionLost, Timeout, Credentials, BadResponse, OverBudget.
 */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly reason: string;
  /** Fields the server found fault with, such as "metadata.uid". */
  readonly fields: readonly string[];
  /** Types of the causes that the server gave. Source: apimachinery pkg/apis/meta/v1 types.go, CauseType. */
  readonly causes: readonly string[];
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    details: {
      status?: number;
      reason: string;
      fields?: readonly string[];
      causes?: readonly string[];
      retryAfterMs?: number;
      cause?: unknown;
    },
  ) {
    super(message, details.cause === undefined ? {} : { cause: details.cause });
    this.status = details.status ?? 0;
    this.reason = details.reason;
    this.fields = details.fields ?? [];
    this.causes = details.causes ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }

  /**
   * The API server knows no such object. Only its own word counts: a balancer that has no API server behind it answers 404, too.
   * Source: Kubernetes API conventions, "Response Status Kind".
   */
  get isNotFound(): boolean {
    return this.status === 404 && this.reason === "NotFound";
  }

  /** The API server does not take the credentials, or they have no right to this; its own word, as above. */
  get isRefused(): boolean {
    return this.reason === "Unauthorized" || this.reason === "Forbidden";
  }

  /** The version asked for is no longer (or not yet) known: only a new list helps. */
  get isGone(): boolean {
    return this.status === 410 || (this.status === 504 && this.causes.includes("ResourceVersionTooLarge"));
  }
}

const statusRemedies: Readonly<Record<number, string>> = {
  401: "the token or certificate was refused: check that it is valid for this cluster and not expired",
  403: "add the permission named here to the agent's ClusterRole and check its binding",
};

/** What becomes of a request without an answer, by the error's code, or its name for a deadline of ours; the first that fits. */
const failures: readonly (readonly [sign: RegExp, reason: string, remedy: string])[] = [
  [/^TimeoutError$/, "Timeout", "the server or the way to it is slow or dead: check both from this node"],
  [
    /CERT|SELF_SIGNED|UNABLE_TO_(VERIFY|GET)|ERR_TLS|ERR_SSL/,
    "Unreachable",
    "check the CA certificate and the server name this node uses",
  ],
  [
    /^(ECONNRESET|EPIPE|ERR_STREAM_PREMATURE_CLOSE)$/,
    "ConnectionLost",
    "the connection was cut; it is tried again",
  ],
  [/^BAD_RESPONSE$/, "BadResponse", "something that is not the API server may be answering at this address"],
  [
    /^OVER_BUDGET$/,
    "OverBudget",
    "what was known before stays; something that is not the API server may be answering at this address",
  ],
];
const unreachable = [
  undefined,
  "Unreachable",
  "check that the endpoint is right (KUBERNETES_SERVICE_HOST or KUBECONFIG) and reachable from this node",
] as const;

function prefix(asked: AskedFor): string {
  return `Cannot ${asked.method} "${asked.path}" at API server "${asked.server}"`;
}

/** Makes an error of an HTTP answer and its `Status` body (or whatever text came in its place). */
export function errorOfAnswer(
  asked: AskedFor,
  answer: { status: number; body: string; retryAfterSeconds?: string | undefined },
): ApiError {
  let body: unknown;
  try {
    body = JSON.parse(answer.body);
  } catch {
    body = undefined;
  }
  const retryAfterMs = Number(answer.retryAfterSeconds) * 1000;
  return errorOfStatus(asked, body, {
    status: answer.status,
    text: cutText(answer.body, { bytes: 200 }),
    ...(retryAfterMs > 0 ? { retryAfterMs } : {}),
  });
}

/** Makes an error of a `Status` object, as it also comes in a watch's ERROR event; of any other the fallback counts. */
export function errorOfStatus(
  asked: AskedFor,
  raw: unknown,
  fallback: { status?: number; text?: string; retryAfterMs?: number } = {},
): ApiError {
  const body = recordOf(recordOf(raw).kind === "Status" ? raw : undefined);
  const status = typeof body.code === "number" ? body.code : (fallback.status ?? 500);
  const reason = wordOf(body.reason, bounds.errorCauses) || (status === 410 ? "Gone" : "Unknown");
  const said = cutText(textOf(body.message) || fallback.text || "no message", bounds.errorMessage);
  const remedy = statusRemedies[status];
  const causes = listOf(recordOf(body.details).causes).slice(0, bounds.errorCauses.count).map(recordOf);
  return new ApiError(
    `${prefix(asked)}: ${status} ${reason}: ${said}${remedy === undefined ? "" : `; ${remedy}`}`,
    {
      status,
      reason,
      fields: causes.map(({ field }) => wordOf(field, bounds.errorCauses)).filter((field) => field !== ""),
      causes: causes
        .map(({ reason: type }) => wordOf(type, bounds.errorCauses))
        .filter((type) => type !== ""),
      ...(fallback.retryAfterMs === undefined ? {} : { retryAfterMs: fallback.retryAfterMs }),
    },
  );
}

/** Makes an error of a request that got no answer, or none that could be read. */
export function errorOfFailure(asked: AskedFor, cause: unknown): ApiError {
  if (cause instanceof ApiError) return cause;
  const error = cause instanceof Error ? cause : new Error(String(cause));
  const code = String((error as NodeJS.ErrnoException).code ?? "");
  const sign = error.name === "TimeoutError" ? error.name : code;
  const [, reason, remedy] = failures.find(([pattern]) => pattern.test(sign)) ?? unreachable;
  return new ApiError(`${prefix(asked)}: ${error.message || code}; ${remedy}`, { reason, cause });
}
