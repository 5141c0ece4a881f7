// SPDX-License-Identifier: Apache-2.0
// The only file that loads the addon (native/): SEQPACKET sockets, and sockets and netlink inside a network namespace.
import { closeSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { getSystemErrorMap } from "node:util";

/** What the addon hands out for a socket; opaque. */
type Handle = object;
/** What the addon throws and rejects with: -errno and the system call. */
type Failure = readonly [errno: number, syscall: string];

interface Addon {
  listen(path: string, backlog: number, mode: number, maxPacketBytes: number, maxFds: number): Handle;
  connect(path: string, maxPacketBytes: number, maxFds: number): Handle;
  start(handle: Handle, onevent: (event: number, a: unknown, b: unknown, c: unknown) => void): void;
  send(handle: Handle, data: Uint8Array, fd: number): boolean;
  peer(handle: Handle): [pid: number, uid: number, gid: number];
  setReading(handle: Handle, on: boolean): void;
  setRef(handle: Handle, on: boolean): void;
  close(handle: Handle): void;
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
  netlinkInNetns(
    netnsFd: number,
    protocol: number,
    request: Uint8Array,
    deadlineMs: number,
  ): Promise<Uint8Array[]>;
}

// The numbers are those of native/binding.c.
const EVENT = { connection: 0, packet: 1, end: 2, error: 3, drain: 4 } as const;
const PACKET = { truncated: 1, controlTruncated: 2 } as const;
const SOCKET = {
  bind: 1,
  setV6only: 2,
  v6only: 4,
  reuseAddress: 8,
  reusePort: 16,
  transparent: 32,
  setMark: 64,
} as const;

const DEFAULT_MAX_PACKET_BYTES = 65_536;
const DEFAULT_DEADLINE_MS = 5_000;

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

/** One packet as it was received. Its descriptors (close-on-exec) belong to the handler that gets the packet. */
export interface Packet {
  readonly data: Uint8Array;
  /** The packet was longer than `maxPacketBytes`; the rest is lost. */
  readonly truncated: boolean;
  /** The packet came with more descriptors than `maxFds`; the kernel has closed the others. */
  readonly controlTruncated: boolean;
  readonly fds: readonly number[];
}

/** Who opened the other end, as the kernel saw it then. Source: unix(7), SO_PEERCRED. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/**
 * One end of a SEQPACKET connection. It stays open, and keeps the process alive unless `unref`ed, until `close()`.
 *
 * Handlers are called from the event loop, never from inside a method. Any of them may close the connection; what one
 * throws goes to `uncaughtException`.
 */
export class SeqpacketConnection implements Disposable {
  /** Owns the descriptors of the packet from the call on, also when it throws. */
  onpacket: (packet: Packet) => void = closeFds;
  /** The peer will send no more. Called once; the connection is still ours to close. */
  onend: () => void = () => {};
  /** The connection broke; it has been closed. Called once. */
  onerror: (error: NativeError) => void = () => {};
  /** There is room again after `send` returned false. */
  ondrain: () => void = () => {};
  readonly #handle: Handle;

  /** Use {@link connectSeqpacket} or a listener instead. */
  constructor(handle: Handle) {
    this.#handle = handle;
    start("watch a connection", handle, (event, a, b, c) => {
      this.#dispatch(event, a, b, c);
    });
  }

  /**
   * Sends one packet, with one descriptor if `fd` is given (which stays the caller's).
   *
   * @returns true: sent; false: no room, nothing was sent, try again after `ondrain`
   * @throws NativeError EPIPE, ECONNRESET, EMSGSIZE, EBADF
   * @throws RangeError for an empty packet, which the peer would take for the end
   */
  send(data: Uint8Array, fd?: number): boolean {
    if (data.length === 0) throw new RangeError("Cannot send a packet: it is empty, which means end of file");
    if (fd !== undefined && !isDescriptor(fd))
      throw new RangeError(`Cannot send descriptor "${fd}": not a descriptor`);
    return attempt("send a packet", () => addon().send(this.#handle, data, fd ?? -1));
  }

  /** @throws NativeError ENOTCONN after close */
  peer(): PeerCredentials {
    const [pid, uid, gid] = attempt("read the peer's credentials", () => addon().peer(this.#handle));
    return { pid, uid, gid };
  }

  /** Off: packets wait in the kernel (and the end with them). A new connection is reading. */
  setReading(on: boolean): void {
    attempt("watch a connection", () => addon().setReading(this.#handle, on));
  }

  ref(): void {
    addon().setRef(this.#handle, true);
  }

  unref(): void {
    addon().setRef(this.#handle, false);
  }

  /** Closes the descriptor at once; no handler is called any more. May be repeated. */
  close(): void {
    addon().close(this.#handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #dispatch(event: number, a: unknown, b: unknown, c: unknown): void {
    switch (event) {
      case EVENT.packet: {
        const flags = b as number;
        this.onpacket({
          data: a as Uint8Array,
          truncated: (flags & PACKET.truncated) !== 0,
          controlTruncated: (flags & PACKET.controlTruncated) !== 0,
          fds: c as number[],
        });
        return;
      }
      case EVENT.end:
        this.onend();
        return;
      case EVENT.drain:
        this.ondrain();
        return;
      case EVENT.error:
        this.close();
        this.onerror(new NativeError("use a connection", a as number, b as string));
        return;
    }
  }
}

/** A listening SEQPACKET socket. It stays open, and keeps the process alive unless `unref`ed, until `close()`. */
export class SeqpacketListener implements Disposable {
  /** Owns the connection; one whose handler throws is closed. By default connections are closed. */
  onconnection: (connection: SeqpacketConnection) => void = (connection) => connection.close();
  /**
   * Accepting failed (EMFILE, ENFILE, ENOMEM). The listener lives on but has stopped reading, because the same failure
   * would come back at once: call `setReading(true)` when there is room again.
   */
  onerror: (error: NativeError) => void = () => {};
  readonly #handle: Handle;

  /** Use {@link listenSeqpacket} instead. */
  constructor(handle: Handle) {
    this.#handle = handle;
    start("watch a listener", handle, (event, a, b) => {
      if (event === EVENT.connection) this.#accept(a as Handle);
      else if (event === EVENT.error) this.onerror(new NativeError("accept", a as number, b as string));
    });
  }

  /** Off: peers wait in the backlog. A new listener is reading. */
  setReading(on: boolean): void {
    attempt("watch a listener", () => addon().setReading(this.#handle, on));
  }

  ref(): void {
    addon().setRef(this.#handle, true);
  }

  unref(): void {
    addon().setRef(this.#handle, false);
  }

  /** Closes the socket at once, not its connections; the file stays for the caller to unlink. May be repeated. */
  close(): void {
    addon().close(this.#handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #accept(handle: Handle): void {
    const connection = new SeqpacketConnection(handle);
    try {
      this.onconnection(connection);
    } catch (error) {
      connection.close();
      throw error;
    }
  }
}

/**
 * Listens at `path`, which must not exist (unlink a stale file first).
 *
 * @param options.backlog default 16
 * @param options.mode of the file, set before it appears; the umask still applies; default 0o600
 * @param options.maxPacketBytes receive buffer of each connection, default 65536
 * @param options.maxFds descriptors accepted with one packet (0 to 253), default 1; the kernel closes the others
 * @throws NativeError EADDRINUSE, ENOENT, ENAMETOOLONG (over 107 bytes), EACCES
 */
export function listenSeqpacket(
  path: string,
  options: { backlog?: number; mode?: number; maxPacketBytes?: number; maxFds?: number } = {},
): SeqpacketListener {
  const { backlog = 16, mode = 0o600, maxPacketBytes = DEFAULT_MAX_PACKET_BYTES, maxFds = 1 } = options;
  checkPath(path);
  const handle = attempt(`listen at "${path}"`, () =>
    addon().listen(path, backlog, mode, maxPacketBytes, maxFds),
  );
  return new SeqpacketListener(handle);
}

/**
 * Connects to the SEQPACKET listener at `path`. Never waits: a full backlog is EAGAIN.
 *
 * @param options.maxPacketBytes receive buffer, default 65536
 * @param options.maxFds descriptors accepted with one packet (0 to 253), default 1; the kernel closes the others
 * @throws NativeError ENOENT, ECONNREFUSED, EAGAIN, EPROTOTYPE (a stream socket listens there), ENAMETOOLONG
 */
export function connectSeqpacket(
  path: string,
  options: { maxPacketBytes?: number; maxFds?: number } = {},
): SeqpacketConnection {
  const { maxPacketBytes = DEFAULT_MAX_PACKET_BYTES, maxFds = 1 } = options;
  checkPath(path);
  return new SeqpacketConnection(
    attempt(`connect to "${path}"`, () => addon().connect(path, maxPacketBytes, maxFds)),
  );
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
 * Opens a socket in a network namespace; it stays there wherever it is used. Synchronous, about 20 µs.
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

/**
 * Sends netlink messages inside a network namespace and collects every datagram the kernel answers with, until each
 * message with NLM_F_ACK is acked and each dump is done. The descriptor may be closed as soon as the call returns.
 *
 * Failures the kernel reports inside the answers (NLMSG_ERROR) are not errors here. Messages between two dumps are
 * sent at once; sequence numbers must be distinct.
 *
 * @param protocol for example NETLINK_ROUTE (0) or NETLINK_NETFILTER (12)
 * @param options.deadlineMs default 5000
 * @throws NativeError setns, sendto, recvmsg (ETIMEDOUT; ENOBUFS: answers were lost; EMSGSIZE: over 64 MiB)
 */
export async function netlinkInNetns(
  netnsFd: number,
  protocol: number,
  request: Uint8Array,
  options: { deadlineMs?: number } = {},
): Promise<Uint8Array[]> {
  try {
    return await addon().netlinkInNetns(
      netnsFd,
      protocol,
      request,
      options.deadlineMs ?? DEFAULT_DEADLINE_MS,
    );
  } catch (error) {
    throw explain("talk netlink in a network namespace", error);
  }
}

let loaded: Addon | undefined;

function addon(): Addon {
  loaded ??= loadAddon();
  return loaded;
}

function loadAddon(): Addon {
  // The bundle has its addon beside it; in a checkout src/ has none there.
  const places = ["./ambient.node", "../native/build/ambient.node"].map((place) =>
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

function start(doing: string, handle: Handle, onevent: Parameters<Addon["start"]>[1]): void {
  try {
    attempt(doing, () => addon().start(handle, onevent));
  } catch (error) {
    addon().close(handle);
    throw error;
  }
}

function attempt<T>(doing: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw explain(doing, error);
  }
}

function explain(doing: string, error: unknown): unknown {
  if (!Array.isArray(error)) return error;
  const [errno, syscall] = error as unknown as Failure;
  return new NativeError(doing, errno, syscall);
}

function describeErrno(errno: number): [code: string, text: string] {
  const known = getSystemErrorMap().get(errno);
  if (known !== undefined) return known;
  // libuv has no name for some of the kernel's errors.
  const entry = Object.entries(constants.errno).find(([, value]) => value === -errno);
  return [entry?.[0] ?? `errno ${-errno}`, ""];
}

function checkPath(path: string): void {
  if (path.includes("\0"))
    throw new RangeError(`Cannot use socket path ${JSON.stringify(path)}: it contains NUL`);
}

function isDescriptor(fd: number): boolean {
  return Number.isInteger(fd) && fd >= 0;
}

function closeFds(packet: Packet): void {
  for (const fd of packet.fds) closeSync(fd);
}
