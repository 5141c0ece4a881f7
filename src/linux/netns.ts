// SPDX-License-Identifier: Apache-2.0
// An open network namespace: one owner, one descriptor, and an identity that outlives paths and descriptor numbers.
import { closeSync, constants, fstatSync, openSync, statfsSync } from "node:fs";
import { isNetns, makeNetns, NativeError, socketInNetns } from "./native.ts";

// Source: linux/magic.h, NSFS_MAGIC.
const NSFS_MAGIC = 0x6e736673;

/** Identity of a namespace: unique among those that exist now. Source: namespaces(7), "The /proc/pid/ns/ directory". */
export interface NetnsId {
  readonly dev: bigint;
  readonly ino: bigint;
}

/**
 * A path that cannot be used as a network namespace; the message names it.
 *
 * `code` is that of the system call (ENOENT: gone, EACCES, ELOOP, …), ENOTNS: there is something else at the path, or CLOSED: the handle
 * is, and `path` is its key.
 */
export class NetnsError extends Error {
  override readonly name = "NetnsError";
  readonly code: string;
  readonly path: string;

  constructor(path: string, code: string, why: string, cause?: unknown) {
    super(`Cannot open network namespace "${path}": ${why}`, { cause });
    this.code = code;
    this.path = path;
  }
}

let openCount = 0;

/** How many {@link Netns} are open now. */
export function openNetnsCount(): number {
  return openCount;
}

/** An open network namespace. It exists as long as this is open, whatever becomes of its processes and paths. */
export class Netns implements Disposable {
  readonly #fd: number;
  readonly id: NetnsId;
  /** `dev:ino`, to compare and to index by. */
  readonly key: string;
  #closed = false;
  #onclose: (() => void) | undefined;

  private constructor(fd: number, id: NetnsId) {
    this.#fd = fd;
    this.id = id;
    this.key = `${id.dev}:${id.ino}`;
    openCount++;
  }

  /**
   * Opens the namespace at `path`, for example /proc/PID/ns/net or /var/run/netns/NAME.
   *
   * @returns a handle that belongs to the caller
   * @throws NetnsError if nothing is there, or something that is not a network namespace
   */
  static open(path: string): Netns {
    const fd = openFile(path);
    try {
      checkKind(fd, path);
      const { dev, ino } = fstatSync(fd, { bigint: true });
      return new Netns(fd, { dev, ino });
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /**
   * Makes a namespace of our own to try things in, with its loopback device up: nothing but the handle keeps it, so it ends with us
   * however we end.
   *
   * @returns a handle that belongs to the caller @throws NativeError
   */
  static async makeTemporary(): Promise<Netns> {
    const fd = await makeNetns();
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return new Netns(fd, { dev, ino });
  }

  /**
   * To be asked for each time: once the handle is closed, its number may be another namespace's.
   * @throws NetnsError CLOSED
   */
  get fd(): number {
    if (!this.#closed) return this.#fd;
    throw new NetnsError(this.key, "CLOSED", "its handle is closed");
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Has something end with the handle that keeps the namespace as it does. */
  onclose(end: () => void): void {
    const earlier = this.#onclose;
    this.#onclose = () => {
      earlier?.();
      end();
    };
  }

  /** May be repeated. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    openCount--;
    closeSync(this.#fd);
    this.#onclose?.();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function openFile(path: string): number {
  try {
    // Not to wait for a writer if the path is a FIFO. Node adds O_CLOEXEC.
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "EIO";
    throw new NetnsError(path, code, describeOpenError(code, error), error);
  }
}

function describeOpenError(code: string, error: unknown): string {
  switch (code) {
    case "ENOENT":
    case "ESRCH":
      return "no such file (is its process or sandbox gone?)";
    case "EACCES":
    case "EPERM":
      return `${code}: the agent needs the capabilities SYS_ADMIN and SYS_PTRACE for it`;
    case "EMFILE":
    case "ENFILE":
      return `${code}: too many open files; raise the limit (RLIMIT_NOFILE) of the agent`;
    default:
      return error instanceof Error ? error.message : code;
  }
}

function checkKind(fd: number, path: string): void {
  // Before a mount from another mount namespace has reached ours, the runtime's path is an empty plain file.
  const { type } = statfsSync(`/proc/self/fd/${fd}`);
  if (type !== NSFS_MAGIC) {
    throw new NetnsError(
      path,
      "ENOTNS",
      "it is not a namespace; if the runtime made it just now, check that its folder is mounted with HostToContainer propagation",
    );
  }
  if (!isNetns(fd)) throw new NetnsError(path, "ENOTNS", "it is a namespace of another kind, not a network");
  if (!mayEnter) enterOnce(fd, path);
}

/** A capability that the process has had once it keeps. */
let mayEnter = false;

/** Has the first one that is opened say what each that is entered would say: entering takes a thread, and is seldom the opener's aim. */
function enterOnce(fd: number, path: string): void {
  try {
    closeSync(socketInNetns(fd, { family: 4, type: "dgram" }));
    mayEnter = true;
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    if (error.code === "EPERM" && error.syscall === "setns") {
      throw new NetnsError(
        path,
        "EPERM",
        "EPERM: the agent needs the capability SYS_ADMIN to enter it",
        error,
      );
    }
    throw new NetnsError(path, error.code, error.message, error);
  }
}
