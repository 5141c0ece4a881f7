// SPDX-License-Identifier: Apache-2.0
// The outer side of a test node: starts a TypeScript entry as the first program of private mount, network and pid
// namespaces, and sees to it that nothing of the node outlives this process, however this process ends.
import { type ChildProcess, fork, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { CGROUP_PREFIX, createCgroupFolder, sweepStaleCgroupFolders } from "./cgroup.ts";
import { cleanEnv, signalNumber } from "./run.ts";

const NEEDED_TOOLS = [
  "unshare",
  "setpriv",
  "nsenter",
  "mount",
  "ip",
  "ss",
  "iptables-save",
  "ip6tables-save",
];

/** A means that this machine lacks for a node of its own; the message is for the person who ran the command. */
export class NodeUnavailableError extends Error {
  override readonly name = "NodeUnavailableError";
}

/** Options of {@link startNode}. */
export interface StartNodeOptions {
  readonly args?: readonly string[];
  /** Environment of the entry; default {@link cleanEnv}. PATH must hold the sbin folders. */
  readonly env?: Readonly<Record<string, string>>;
  /** Standard streams of the entry, default "inherit". */
  readonly stdio?: "inherit" | "pipe";
  /** Programs that the entry will need, besides those of the node itself. */
  readonly tools?: readonly string[];
}

/** A running node as seen from outside. */
export interface NodeHandle {
  /** The process to talk to: messages reach the entry, `pid` is that of unshare. */
  readonly child: ChildProcess;
  /** Absolute path of the node's cgroup folder; all processes of the node are below it. */
  readonly cgroupFolder: string;
  /** Resolves when the entry runs inside. Rejects with {@link NodeUnavailableError} when it never came to that. */
  readonly started: Promise<void>;
  /** Exit code of the entry (128 + n after signal n), after everything of the node is gone. */
  readonly exited: Promise<number>;
  /** Passes a signal to the entry. */
  signal(signal: NodeJS.Signals): void;
  /** Ends every process of the node at once. */
  kill(): void;
}

/**
 * Checks what a node needs before anything is touched.
 *
 * @throws NodeUnavailableError one sentence naming everything that is missing.
 */
export async function checkNodeMeans(tools: readonly string[] = []): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new NodeUnavailableError(
      "Cannot make network namespaces: this needs root, and you are not root (try again with sudo)",
    );
  }
  if (import.meta.dirname.startsWith("/run/")) {
    throw new NodeUnavailableError(
      "Cannot use a checkout below /run: the node has a /run of its own; move it",
    );
  }
  const folders = (cleanEnv().PATH ?? "").split(delimiter);
  const missing: string[] = [];
  for (const tool of [...NEEDED_TOOLS, ...tools]) {
    const found = await Promise.any(folders.map((folder) => access(join(folder, tool), constants.X_OK))).then(
      () => true,
      () => false,
    );
    if (!found) missing.push(tool);
  }
  if (missing.length > 0) {
    throw new NodeUnavailableError(
      `Cannot make a node: ${missing.join(", ")} not found; run "npm run setup" as root, which installs them`,
    );
  }
}

/**
 * Starts `entry` inside new namespaces: private /run (with /run/netns and the scratch folder /run/node), /proc of its
 * own, `lo` up, forwarding on. See init.sh.
 *
 * Three nets catch the fall of this process: unshare has it as parent-death signal and its child has unshare as such;
 * the entry sees the control channel close (see inside.ts); the cleaner outside sees the end of its stdin.
 * @throws NodeUnavailableError when means are missing.
 */
export async function startNode(entry: string, options: StartNodeOptions = {}): Promise<NodeHandle> {
  await checkNodeMeans(options.tools);
  await sweepStaleCgroupFolders();
  const id = `${process.pid}-${randomBytes(4).toString("hex")}`;
  const cgroupFolder = await createCgroupFolder(`${CGROUP_PREFIX}${id}`).catch((error: Error) => {
    throw new NodeUnavailableError(error.message, { cause: error });
  });
  const cleaner = startCleaner(cgroupFolder);
  const child = fork(entry, [...(options.args ?? [])], {
    execPath: "setpriv",
    execArgv: [
      ...["--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--pid"],
      ...["--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"],
      ...["/bin/sh", join(import.meta.dirname, "init.sh"), id, cgroupFolder, process.execPath],
    ],
    env: { ...(options.env ?? cleanEnv()) },
    stdio: [options.stdio ?? "inherit", options.stdio ?? "inherit", options.stdio ?? "inherit", "ipc"],
    serialization: "advanced",
    // a session of its own: Ctrl-C comes to us alone and is passed on to the entry alone
    detached: true,
  });
  const ended = new Promise<number>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? 128 + signalNumber(signal)));
    child.once("error", () => resolve(127));
  });
  const started = new Promise<void>((resolve, reject) => {
    child.once("message", () => resolve());
    void ended.then((code) =>
      reject(
        new NodeUnavailableError(
          `Cannot enter new namespaces (exit code ${code}): in a container, it must be privileged`,
        ),
      ),
    );
  });
  // who does not wait for the start learns of its failure from the exit code
  started.catch(() => {});
  return {
    child,
    cgroupFolder,
    started,
    exited: ended.then(async (code) => {
      await cleaner.finish();
      return code;
    }),
    signal: (signal) => {
      if (child.connected) child.send({ signal });
    },
    kill: () => {
      child.kill("SIGKILL");
    },
  };
}

function startCleaner(cgroupFolder: string): { finish(): Promise<void> } {
  const child = spawn("/bin/sh", [join(import.meta.dirname, "cleaner.sh"), cgroupFolder], {
    stdio: ["pipe", "ignore", "ignore"],
    env: cleanEnv(),
    cwd: "/",
    detached: true,
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.stdin.on("error", () => {});
  return {
    finish: async () => {
      child.stdin.end();
      await ended;
    },
  };
}
