// SPDX-License-Identifier: Apache-2.0
// How a run of a pod ends, and what is said and done about it: one row for each. Pure.
import { type Failure, logRemedy, ztunnelRemedy } from "./failure.ts";

interface Row {
  /** The pod is where it should be. */
  readonly isSettled: boolean;
  /** One sentence: why the pod stands where it stands. */
  readonly reason: string;
  /** Why an ADD that waits for the pod cannot succeed; without it the ADD goes on waiting, or has succeeded. */
  readonly unfinished?: string;
  /** A pod that is wanted, or should leave, has to wait. */
  readonly wait?: Pick<Failure, "code" | "kind" | "remedy">;
}

const rows = {
  enrolled: {
    isSettled: true,
    reason: "rules, ip rule and route are verified, and ztunnel has acknowledged it",
  },
  outside: { isSettled: true, reason: "it does not belong into the mesh, and nothing of ours is in it" },
  leaving: {
    isSettled: false,
    reason: "it is on its way out: new connections become direct, open ones may end",
    unfinished: "its labels changed meanwhile",
  },
  kept: {
    isSettled: false,
    reason:
      "its annotation cannot be taken away, so it stays in the mesh: its peers would go on to speak HBONE",
    unfinished: "it is on its way out of the mesh",
  },
  "stock-taken": {
    isSettled: false,
    reason: "an earlier agent left it in the mesh; it is looked at once ztunnel may connect",
  },
  forgotten: {
    isSettled: true,
    reason: "the pod was deleted",
    unfinished: "the pod was deleted meanwhile",
  },
  "no-sandbox": {
    isSettled: false,
    reason: "no process of it is found on this node in a namespace that has its address",
    unfinished: "its sandbox was deleted or replaced meanwhile",
    wait: { code: "sandbox-missing", kind: "sandbox", remedy: logRemedy },
  },
  "no-way-out": {
    isSettled: false,
    reason: "it should leave, but no process of it is found whose redirection could be taken away",
    unfinished: "its labels changed meanwhile",
    wait: { code: "sandbox-missing", kind: "sandbox", remedy: logRemedy },
  },
  "no-ztunnel": {
    isSettled: false,
    reason: "no ztunnel connection",
    wait: { code: "ztunnel-away", kind: "ztunnel", remedy: ztunnelRemedy },
  },
  "namespace-unknown": {
    isSettled: false,
    reason: "the labels of its namespace are not known yet",
    unfinished: "the labels of its namespace are not known yet",
  },
} as const satisfies Readonly<Record<string, Row>>;

/** How a run ended when nothing went wrong. */
export type ReconcileOutcome = keyof typeof rows;

/** How a run ended. */
export type RunOutcome = ReconcileOutcome | "failed";

/** Whether the pod is where it should be. */
export function isSettled(outcome: RunOutcome): boolean {
  return outcome !== "failed" && rows[outcome].isSettled;
}

/** One sentence: why the pod stands where it stands. */
export function reasonOf(outcome: ReconcileOutcome): string {
  return rows[outcome].reason;
}

/** Why a pod in this outcome has to wait; `undefined` for one that does not. */
export function waitOf(outcome: ReconcileOutcome): Failure | undefined {
  const { wait, reason }: Row = rows[outcome];
  return wait === undefined ? undefined : { ...wait, message: reason };
}

/** Why an ADD cannot succeed whose pod's run ended so; `undefined`: it may. */
export function unfinishedOf(outcome: ReconcileOutcome): string | undefined {
  const row: Row = rows[outcome];
  return row.unfinished;
}

/** No ztunnel is connected. */
export const ztunnelAway: Failure = { ...rows["no-ztunnel"].wait, message: rows["no-ztunnel"].reason };
