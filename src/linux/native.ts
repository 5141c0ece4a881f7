// SPDX-License-Identifier: Apache-2.0
// The only file that loads the addon (native/); also what the addon does inside a network namespace.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { getSystemErrorMap } from "node:util";

/** What the addon hands out for a socket; opaque. */
export type Handle = object;
/** What the addon throws and rejects with: -errno and the system call. */
export type AddonFailure = readonly [errno: number, syscall: string];

/** The functions of native/binding.h. */
export interface Addon {
  listen(path: string, backlog: number, mode: number, maxPacketBytes: number, maxFds: number): Handle;
  connect(path: string, maxPacketBytes: number, maxFds: number): Handle;
  start(handle: Handle, onevent: (event: number, a: unknown, b: unknown, c: unknown) => void): void;
  send(handle: Handle, data: Uint8Array, fd: number): boolean;
  peer(handle: Handle): [pid: number, uid: number, gid: number];
  setReading(handle: Handle, on: boolean): void;
  setRef(handle: Handle, on: boolean): void;
  close(handle: Handle): void;
  makeNetns(): Promise<number>;
  namespaceOwner(fd: number): number;
  isNetns(fd: number): boolean;
  socketInNetns(
    netnsFd: number,
    family: number,
    stream: boolean,
    address: string | null,
    port: number,
    flags: number,
    mark: number,
    backlog: number,
  ): number;
  /** Per conversation: protocol, request, deadline in ms, enough bytes. */
  netlinkInNetns(
    netnsFd: number,
    isUrgent: boolean,
    conversations: readonly (number | Uint8Array)[],
  ): Promise<(Uint8Array | AddonFailure)[]>;
  xtablesInNetns(
    netnsFd: number,
    names: string,
    onlyExisting: boolean,
    maxBytes: number,
    urgent: boolean,
  ): Promise<(Uint8Array | undefined | AddonFailure)[]>;
  /** Per socket: protocol, then the numbers of its multicast groups. */
  notifyInNetns(netnsFd: number, sockets: readonly (readonly number[])[]): Promise<Handle>;
  notifyListen(handle: Handle, onheard: () => void): void;
  notifyClose(handle: Handle): void;
  pollInNetns(
    netnsFd: number,
    protocol: number,
    request: Uint8Array,
    everyMs: number,
    onchanged: () => void,
  ): Promise<Handle>;
  pollFrom(handle: Handle, answer: Uint8Array): void;
  pollClose(handle: Handle): void;
  watchTurns(): Handle;
  /** In ns. */
  readTurns(handle: Handle, forget: boolean): [p50: number, p99: number, longest: number];
}

// The numbers are those of native/binding_netns.c.
const SOCKET = {
  bind: 1,
  setV6only: 2,
  v6only: 4,
  reuseAddress: 8,
  reusePort: 16,
  transparent: 32,
  setMark: 64,
} as const;

const DEFAULT_DEADLINE_MS = 5_000;
const NETLINK = "talk netlink in a network namespace";

/** A system call that failed. `code` is the name ("EPIPE"), `errno` is negative as in Node's own errors. */
export class NativeError extends Error {
  override readonly name = "NativeError";
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  /** `doing` completes the sentence "Cannot …". */
  constructor(doing: string, errno: number, syscall: string) {
    const [code, text] = describeErrno(errno);
    super(`Cannot ${doing}: ${syscall}: ${code}${text ? ` (${text})` : ""}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

/**
 * Makes a network namespace with its loopback device up, without a process.
 *
 * @returns a descriptor (close-on-exec) that belongs to the caller and is all that keeps the namespace
 * @throws NativeError with syscall unshare (EPERM: it takes SYS_ADMIN; ENOSPC: /proc/sys/user/max_net_namespaces), socket or ioctl
 *   (EPERM: it takes NET_ADMIN)
 */
export async function makeNetns(): Promise<number> {
  try {
    return await addon().makeNetns();
  } catch (error) {
    throw explain("make a network namespace", error);
  }
}

/**
 * Opens the user namespace that owns a namespace; of a user namespace, its parent.
 *
 * @returns a descriptor (close-on-exec) that belongs to the caller
 * @throws NativeError with syscall ioctl (EPERM: it is none of ours, or above ours; ENOTTY, EBADF: no namespace)
 */
export function namespaceOwner(namespaceFd: number): number {
  return attempt("tell who owns a namespace", () => addon().namespaceOwner(namespaceFd));
}

/** Whether a namespace is one of the network, without entering it. @throws NativeError with syscall ioctl (ENOTTY: no namespace) */
export function isNetns(namespaceFd: number): boolean {
  return attempt("tell of which kind a namespace is", () => addon().isNetns(namespaceFd));
}

/** A socket to be made. Bound if an address or a port is given. */
export interface NetnsSocketOptions {
  readonly family: 4 | 6;
  readonly type: "stream" | "dgram";
  /** Numeric; default any. */
  readonly address?: string;
  /** Default 0: the kernel chooses. */
  readonly port?: number;
  readonly v6only?: boolean;
  readonly reuseAddress?: boolean;
  readonly reusePort?: boolean;
  readonly mark?: number;
  readonly transparent?: boolean;
  /** Over 0: also listen. */
  readonly backlog?: number;
}

/**
 * Opens a socket in a network namespace; it stays there wherever it is used. Synchronous, on a thread of its own: 70 µs, and
 * as long as others have the processors.
 *
 * @returns a descriptor (non-blocking, close-on-exec) that belongs to the caller
 * @throws NativeError with syscall setns (EBADF; EINVAL: not a network namespace; EPERM), socket, setsockopt, bind
 *   (EADDRINUSE, EADDRNOTAVAIL, EINVAL: not a numeric address) or listen
 */
export function socketInNetns(netnsFd: number, options: NetnsSocketOptions): number {
  const { family, type, address, port, v6only, mark, backlog = 0 } = options;
  const flags =
    (address !== undefined || port !== undefined ? SOCKET.bind : 0) |
    (v6only !== undefined ? SOCKET.setV6only : 0) |
    (v6only ? SOCKET.v6only : 0) |
    (options.reuseAddress ? SOCKET.reuseAddress : 0) |
    (options.reusePort ? SOCKET.reusePort : 0) |
    (options.transparent ? SOCKET.transparent : 0) |
    (mark !== undefined ? SOCKET.setMark : 0);
  return attempt("open a socket in a network namespace", () =>
    addon().socketInNetns(
      netnsFd,
      family,
      type === "stream",
      address ?? null,
      port ?? 0,
      flags,
      mark ?? 0,
      backlog,
    ),
  );
}

/** One conversation with the kernel over netlink. */
export interface Conversation {
  /** For example NETLINK_ROUTE (0) or NETLINK_NETFILTER (12). */
  readonly protocol: number;
  /** Messages with distinct sequence numbers; those between two dumps are sent at once. */
  readonly request: Uint8Array;
  /** Default 5000. */
  readonly deadlineMs?: number | undefined;
  /**
   * It ends without error once this much is received, a dump in the middle; what was not heard has no answer. Default: all is received.
   */
  readonly enoughBytes?: number | undefined;
}

/**
 * Has conversations one after the other with one entry into a network namespace, and collects what the kernel answers, until each
 * message with NLM_F_ACK is acked and each dump is done. The descriptor may be closed as soon as the call returns.
 *
 * Failures the kernel reports inside the answers (NLMSG_ERROR) are not errors here.
 *
 * @param options.isUrgent does not wait for others that are not; default false
 * @returns for each the messages, or how it failed: sendto, recvmsg (ETIMEDOUT; ENOBUFS: answers were lost; EMSGSIZE: over 64 MiB)
 * @throws NativeError setns; pthread_create
 */
export async function converseInNetns(
  netnsFd: number,
  conversations: readonly Conversation[],
  { isUrgent = false }: { readonly isUrgent?: boolean | undefined } = {},
): Promise<(Uint8Array | NativeError)[]> {
  const list = conversations.flatMap(({ protocol, request, deadlineMs, enoughBytes }) => [
    protocol,
    request,
    deadlineMs ?? DEFAULT_DEADLINE_MS,
    enoughBytes ?? 0,
  ]);
  try {
    const answers = await addon().netlinkInNetns(netnsFd, isUrgent, list);
    return answers.map((answer) =>
      answer instanceof Uint8Array ? answer : new NativeError(NETLINK, ...answer),
    );
  } catch (error) {
    throw explain(NETLINK, error);
  }
}

/** One conversation, as {@link converseInNetns}. @throws NativeError also for how it failed */
export async function netlinkInNetns(
  netnsFd: number,
  protocol: number,
  request: Uint8Array,
  options: Pick<Conversation, "deadlineMs" | "enoughBytes"> = {},
): Promise<Uint8Array> {
  const [answer] = await converseInNetns(netnsFd, [{ protocol, request, ...options }]);
  if (!(answer instanceof Uint8Array)) throw answer;
  return answer;
}

let loaded: Addon | undefined;

/** The addon, loaded when it is first needed. @throws Error with the remedy when there is none */
export function addon(): Addon {
  loaded ??= loadAddon();
  return loaded;
}

function loadAddon(): Addon {
  // The bundle has its addon beside it; in a checkout src/linux/ has none there.
  const places = ["./ambient.node", "../../native/build/ambient.node"].map((place) =>
    fileURLToPath(new URL(place, import.meta.url)),
  );
  const found = places.find((place) => existsSync(place));
  if (found === undefined) {
    throw new Error(
      `Cannot load the native addon: none at "${places.join('" or "')}"; build it with: npm run setup`,
    );
  }
  try {
    return createRequire(import.meta.url)(found) as Addon;
  } catch (cause) {
    throw new Error(`Cannot load the native addon "${found}": build it again with: npm run setup`, { cause });
  }
}

/** The result of a call of the addon; `doing` completes the sentence "Cannot …". @throws NativeError */
export function attempt<T>(doing: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw explain(doing, error);
  }
}

/** What the addon threw or rejected with as a {@link NativeError}; anything else as it is. */
export function explain(doing: string, error: unknown): unknown {
  if (!Array.isArray(error)) return error;
  const [errno, syscall] = error as unknown as AddonFailure;
  return new NativeError(doing, errno, syscall);
}

let systemErrors: ReadonlyMap<number, [code: string, text: string]> | undefined;

/** What libuv knows of an errno. @param errno negative */
export function systemError(errno: number): [code: string, text: string] | undefined {
  // Node builds the map anew with each call, which takes longer than a conversation with the kernel
  systemErrors ??= getSystemErrorMap();
  return systemErrors.get(errno);
}

function describeErrno(errno: number): [code: string, text: string] {
  const known = systemError(errno);
  if (known !== undefined) return known;
  // libuv has no name for some of the kernel's errors.
  const entry = Object.entries(constants.errno).find(([, value]) => value === -errno);
  return [entry?.[0] ?? `errno ${-errno}`, ""];
}
