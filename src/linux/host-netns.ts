// SPDX-License-Identifier: Apache-2.0
// Which network namespaces are the host's, so that none of them is ever taken for a pod's.
import { closeSync, statSync } from "node:fs";
import { join } from "node:path";
import { NativeError, socketInNetns } from "./native.ts";
import { Netns } from "./netns.ts";

/**
 * `Netns.key` of every namespace that must not be written with pod rules: the host's and the agent's own
 * (the same one when the agent runs with host networking).
 * @param options.hostRoot prefix under which the host's files are seen
 * @throws Error with the remedy when the host's cannot be seen: without it nothing would keep rules out of the host
 */
export function hostNetnsKeys(options: { readonly hostRoot: string }): ReadonlySet<string> {
  const paths = ["/proc/self/ns/net", join(options.hostRoot, "proc/1/ns/net")];
  return new Set(paths.map(knownKeyAt));
}

function knownKeyAt(path: string): string {
  let why = "there is no such file";
  try {
    const key = netnsKeyAt(path);
    if (key !== undefined) return key;
  } catch (error) {
    why = (error as NodeJS.ErrnoException).code ?? String(error);
  }
  throw new Error(
    `Cannot tell the host's network namespace at "${path}": ${why}; ` +
      "mount the host's /proc below HOST_ROOT and grant the capability SYS_PTRACE",
  );
}

/** `Netns.key` of the namespace behind a path; `undefined` when there is none. @throws Error with `code` when it may not be seen */
export function netnsKeyAt(path: string): string | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? undefined : `${stat.dev}:${stat.ino}`;
}

/** Whether the kernel lets a namespace have IPv6 sockets; `ipv6.disable=1` and a kernel without the module do not. */
export function supportsIpv6({ fd }: { readonly fd: number }): boolean {
  try {
    closeSync(socketInNetns(fd, { family: 6, type: "dgram" }));
    return true;
  } catch (error) {
    if (error instanceof NativeError && error.code === "EAFNOSUPPORT") return false;
    throw error;
  }
}

/** Whether this kernel has IPv6 at all. */
export function hasIpv6(): boolean {
  using own = Netns.open("/proc/self/ns/net");
  return supportsIpv6(own);
}
