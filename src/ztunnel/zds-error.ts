// SPDX-License-Identifier: Apache-2.0
// Why a pod could not be handed to ztunnel.

/**
 * - `NO_CONNECTION`: no ztunnel is connected; the pod is in the next snapshot.
 * - `NACK`: ztunnel refused, the message has its text; the connection stays.
 * - `TIMEOUT`: no answer in time; the connection was closed, ztunnel reconnects.
 * - `DISCONNECTED`: the connection ended before the answer.
 * - `SUPERSEDED`: the pod was removed or changed before its turn came.
 * - `CLOSED`: the server is shutting down.
 */
export type ZdsErrorCode = "NO_CONNECTION" | "NACK" | "TIMEOUT" | "DISCONNECTED" | "SUPERSEDED" | "CLOSED";

/** A workload message that ztunnel did not acknowledge. Every one may be tried again by the caller. */
export class ZdsError extends Error {
  override readonly name = "ZdsError";
  readonly code: ZdsErrorCode;

  constructor(code: ZdsErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
