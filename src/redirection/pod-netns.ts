// SPDX-License-Identifier: Apache-2.0
// What a namespace must be before anything is written there.
import { fstatSync } from "node:fs";
import type { Netns } from "../linux/netns.ts";
import { NetnsVisit } from "../linux/netns-visit.ts";
import type { NetnsCall } from "../netfilter/rule-engine.ts";
import { givenUp } from "./named-faults.ts";
import { RedirectionError } from "./redirection-error.ts";

/**
 * Checks that a handle is open, that its descriptor still is the namespace it was opened for, and that this is not one
 * of the host's.
 * @throws {RedirectionError} NETNS_CLOSED, HOST_NETNS
 */
export function assertPodNetns(netns: Netns, hostNetns: ReadonlySet<string>): void {
  if (netns.closed) {
    throw new RedirectionError(
      "NETNS_CLOSED",
      `Cannot redirect network namespace ${netns.key}: its handle is closed`,
    );
  }
  const { dev, ino } = fstatSync(netns.fd, { bigint: true });
  const key = `${dev}:${ino}`;
  if (hostNetns.has(key) || hostNetns.has(netns.key)) {
    throw new RedirectionError(
      "HOST_NETNS",
      `Cannot redirect network namespace ${key}: it is the host's or the agent's own; ` +
        "pods with host networking are never part of the mesh",
    );
  }
  if (key !== netns.key) {
    throw new RedirectionError(
      "NETNS_CLOSED",
      `Cannot redirect network namespace ${netns.key}: its descriptor is that of ${key}`,
    );
  }
}

/** Checks that a call still is to be carried out, and that its namespace may be written. @throws also ToolError when the caller gave up */
export function assertUsable({ netns, signal }: NetnsCall, hostNetns: ReadonlySet<string>): void {
  if (signal?.aborted === true) throw givenUp();
  assertPodNetns(netns, hostNetns);
}

/** A visit of the call's namespace, checked before each entry as {@link assertUsable} does. */
export function visitOf(call: NetnsCall, hostNetns: ReadonlySet<string>): NetnsVisit {
  const { netns, isUrgent = false } = call;
  return new NetnsVisit({ fd: netns.fd, isUrgent, assertUsable: () => assertUsable(call, hostNetns) });
}
