// SPDX-License-Identifier: Apache-2.0
// SEQPACKET sockets: packets that carry descriptors, between the agent and ztunnel.
import { closeSync } from "node:fs";
import { type Addon, addon, attempt, type Handle, NativeError } from "./native.ts";

// The numbers are those of native/binding_seqpacket_events.c.
const EVENT = { connection: 0, packet: 1, end: 2, error: 3, drain: 4 } as const;
const PACKET = { truncated: 1, controlTruncated: 2 } as const;

const DEFAULT_MAX_PACKET_BYTES = 65_536;

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

/** What a connection and a listener have in common. */
class SeqpacketSocket implements Disposable {
  protected readonly handle: Handle;
  readonly #doing: string;

  protected constructor(doing: string, handle: Handle, onevent: Parameters<Addon["start"]>[1]) {
    this.#doing = doing;
    this.handle = handle;
    try {
      attempt(doing, () => addon().start(handle, onevent));
    } catch (error) {
      addon().close(handle);
      throw error;
    }
  }

  /** Off: packets (and the end with them), or peers, wait in the kernel. A new socket is reading. */
  setReading(on: boolean): void {
    attempt(this.#doing, () => addon().setReading(this.handle, on));
  }

  ref(): void {
    addon().setRef(this.handle, true);
  }

  unref(): void {
    addon().setRef(this.handle, false);
  }

  /** Closes the descriptor at once: a connection's handlers are called no more, a listener's connections and file stay. May be repeated. */
  close(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * One end of a SEQPACKET connection. It stays open, and keeps the process alive unless `unref`ed, until `close()`.
 *
 * Handlers are called from the event loop, never from inside a method. Any of them may close the connection; what one
 * throws goes to `uncaughtException`.
 */
export class SeqpacketConnection extends SeqpacketSocket {
  /** Owns the descriptors of the packet from the call on, also when it throws. */
  onpacket: (packet: Packet) => void = closeFds;
  /** The peer will send no more. Called once; the connection is still ours to close. */
  onend: () => void = () => {};
  /** The connection broke; it has been closed. Called once. */
  onerror: (error: NativeError) => void = () => {};
  /** There is room again after `send` returned false. */
  ondrain: () => void = () => {};

  /** Use {@link connectSeqpacket} or a listener instead. */
  constructor(handle: Handle) {
    super("watch a connection", handle, (event, a, b, c) => {
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
    if (fd !== undefined && !(Number.isInteger(fd) && fd >= 0))
      throw new RangeError(`Cannot send descriptor "${fd}": not a descriptor`);
    return attempt("send a packet", () => addon().send(this.handle, data, fd ?? -1));
  }

  /** @throws NativeError ENOTCONN after close */
  peer(): PeerCredentials {
    const [pid, uid, gid] = attempt("read the peer's credentials", () => addon().peer(this.handle));
    return { pid, uid, gid };
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
export class SeqpacketListener extends SeqpacketSocket {
  /** Owns the connection; one whose handler throws is closed. By default connections are closed. */
  onconnection: (connection: SeqpacketConnection) => void = (connection) => connection.close();
  /**
   * Accepting failed (EMFILE, ENFILE, ENOMEM). The listener lives on but has stopped reading, because the same failure
   * would come back at once: call `setReading(true)` when there is room again.
   */
  onerror: (error: NativeError) => void = () => {};

  /** Use {@link listenSeqpacket} instead. */
  constructor(handle: Handle) {
    super("watch a listener", handle, (event, a, b) => {
      if (event === EVENT.connection) this.#accept(a as Handle);
      else if (event === EVENT.error) this.onerror(new NativeError("accept", a as number, b as string));
    });
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

function checkPath(path: string): void {
  if (path.includes("\0"))
    throw new RangeError(`Cannot use socket path ${JSON.stringify(path)}: it contains NUL`);
}

function closeFds(packet: Packet): void {
  for (const fd of packet.fds) closeSync(fd);
}
