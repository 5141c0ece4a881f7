// SPDX-License-Identifier: Apache-2.0
// Failures as values: what to do next about them, who has to act, and what people are told. Pure.
import { ApiError } from "../kube/api-error.ts";
import { NativeError } from "../linux/native.ts";
import { NetlinkError } from "../linux/netlink/exchange.ts";
import { NetnsError } from "../linux/netns.ts";
import type { PortHolder } from "../linux/port-holders.ts";
import { ToolError } from "../linux/run-tool.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { BackendError } from "../netfilter/variant.ts";
import { RedirectionError } from "../redirection/redirection-error.ts";
import { RedirectOptionsError } from "../redirection/rules.ts";
import { type RulesKnowledge, rulesKnowledge } from "../redirection/rules-knowledge.ts";
import { SidecarOptionsError } from "../redirection/sidecar-options.ts";
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

/**
 * What to do about a failure.
 * - `ztunnel-away`: the next ztunnel connection mends it by itself.
 * - `ztunnel-refused`: ztunnel is there and does not take the pod.
 * - `sandbox-missing`: the pod's namespace is not found.
 * - `loopback-down`: "lo" of the pod's namespace is, for this moment or for good.
 * - `other`: a step failed.
 */
export type FailureCode = "ztunnel-away" | "ztunnel-refused" | "sandbox-missing" | "loopback-down" | "other";

/** Why a run did not get where it wanted. */
export interface Failure {
  readonly code: FailureCode;
  readonly kind: FailureKind;
  readonly message: string;
  /** The end of a sentence that names the failure. */
  readonly remedy: string;
  /** What it says of the rules that may stand in the pod; absent: nothing. */
  readonly rules?: RulesKnowledge;
}

/** Where to look when ztunnel is away; the end of a sentence. */
export const ztunnelRemedy =
  "; check the ztunnel pod of this node: kubectl get pods -A -l app=ztunnel -o wide";
/** Where to look when nothing better is known; the end of a sentence. */
export const logRemedy = "; the log of this node's CNI agent has the details";

/** A step failed with a reason that is for people, and known by its code to us. */
export class StepError extends Error {
  override readonly name = "StepError";
  readonly failure: Failure;

  constructor(failure: Failure, cause: unknown) {
    super(failure.message, { cause });
    this.failure = failure;
  }
}

/** Sorts an error by what to do next. */
export function failureOf(error: unknown): Failure {
  if (error instanceof StepError) return error.failure;
  const message = error instanceof Error ? error.message : String(error);
  const kind = failureKind(error);
  if (!(error instanceof ZdsError)) {
    const rules = rulesKnowledge(error);
    const code = error instanceof NetlinkError && error.code === "ENETDOWN" ? "loopback-down" : "other";
    return { code, kind, message, remedy: logRemedy, ...(rules === undefined ? {} : { rules }) };
  }
  const isAway = error.code !== "NACK" && error.code !== "SUPERSEDED";
  const code = isAway ? "ztunnel-away" : error.code === "NACK" ? "ztunnel-refused" : "other";
  return { code, kind, message, remedy: ztunnelRemedy };
}

/** A refusal of ztunnel whose cause is in the pod: something there holds ztunnel's ports. */
export function portsHeld(error: ZdsError, holders: readonly PortHolder[]): StepError {
  const ports = holders.map(({ port, protocol, pid, command }) => {
    const program = command === undefined ? "a program" : `"${command}"`;
    const holder = pid === undefined ? "an owner that is not found" : `${program} (process ${pid})`;
    return `${protocol} port ${port} is held by ${holder}`;
  });
  const remedy = `; in the pod ${ports.join(", ")}: ztunnel needs this port there, let the program use another one`;
  return new StepError(
    { code: "ztunnel-refused", kind: "ztunnel-refused", message: error.message, remedy },
    error,
  );
}

type ErrorClass = abstract new (...args: never[]) => Error;

const kindsByClass = new Map<ErrorClass, FailureKind>([
  [RedirectionError, "rules"],
  [NetfilterFault, "rules"],
  [RedirectOptionsError, "rules"],
  [SidecarOptionsError, "rules"],
  [ToolError, "rules"],
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
