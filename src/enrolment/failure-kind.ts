// SPDX-License-Identifier: Apache-2.0
// Failures sorted by who has to act, for metrics and people. Pure.
import { ApiError } from "../kube/api-error.ts";
import { NativeError } from "../linux/native.ts";
import { NetlinkError } from "../linux/netlink/exchange.ts";
import { NetnsError } from "../linux/netns.ts";
import { BackendError } from "../redirect/backend.ts";
import { RedirectionError } from "../redirect/redirection-error.ts";
import { RedirectOptionsError } from "../redirect/rules.ts";
import { ToolError } from "../redirect/run-tool.ts";
import { SaveParseError } from "../redirect/save-parser.ts";
import { ZdsError } from "../ztunnel/zds-error.ts";

/** Why pods are not captured, in few words: label values of a metric. */
export const failureKinds = [
  "sandbox",
  "namespace",
  "ztunnel",
  "ztunnel-refused",
  "rules",
  "kernel",
  "api",
  "other",
] as const;
export type FailureKind = (typeof failureKinds)[number];

type ErrorClass = abstract new (...args: never[]) => Error;

const kindsByClass = new Map<ErrorClass, FailureKind>([
  [RedirectionError, "rules"],
  [RedirectOptionsError, "rules"],
  [ToolError, "rules"],
  [SaveParseError, "rules"],
  [BackendError, "rules"],
  [NetlinkError, "kernel"],
  [NativeError, "kernel"],
  [NetnsError, "sandbox"],
  [ApiError, "api"],
]);

/** Sorts an error by who has to act. */
export function failureKind(error: unknown): FailureKind {
  if (error instanceof ZdsError) return error.code === "NACK" ? "ztunnel-refused" : "ztunnel";
  for (const [errorClass, kind] of kindsByClass) if (error instanceof errorClass) return kind;
  return "other";
}
