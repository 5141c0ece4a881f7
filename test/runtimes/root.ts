// SPDX-License-Identifier: Apache-2.0
// Roots of Debian suites with a container runtime: bringing one, running programs in it, and what it says of itself.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { cleanEnv, run, signalNumber } from "../support/node/run.ts";

/** What the tests that are run in a root need of a system. */
const packages = [
  ...[
    "base-files",
    "base-passwd",
    "dash",
    "bash",
    "debianutils",
    "coreutils",
    "util-linux",
    "mount",
    "procps",
    "findutils",
  ],
  ...["grep", "sed", "mawk", "tar", "gzip", "libstdc++6", "libatomic1"],
  ...["iptables", "nftables", "ipset", "iproute2", "conntrack", "tcpdump"],
  ...["containerd", "runc", "containernetworking-plugins", "busybox-static"],
];
/** The last podman that runs chains of CNI; the next one's is 5. */
const podmanPackages: Readonly<Record<string, readonly string[]>> = {
  bookworm: ["podman", "conmon", "golang-github-containers-common"],
};
const endings = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const checkout = join(import.meta.dirname, "../..");
/** Versions of CNI in which chains are tried, newest first. */
export const chainVersions = ["1.1.0", "1.0.0"];

/** Why a suite cannot be had on this machine, as one sentence. */
export class RootUnavailableError extends Error {
  override readonly name = "RootUnavailableError";
}

/** Versions as the programs of a root say them; of the CNI plugins, which say none, Debian's. */
export interface Versions {
  readonly containerd: string;
  readonly runc: string;
  readonly iptables: string;
  readonly nftables: string;
  readonly plugins: string;
  /** Empty where there is none that runs chains of CNI. */
  readonly podman: string;
}

/** How a program in a root ended. */
export interface Ending {
  /** Exit code, 128 + n after signal n. */
  readonly code: number;
  readonly seconds: number;
  readonly timedOut: boolean;
}

/** A root that was brought. */
export class Root {
  readonly suite: string;
  readonly path: string;
  readonly versions: Versions;
  /** Day on which its packages were fetched, YYYY-MM-DD. */
  readonly fetched: string;
  /** Versions of CNI of which its plugins can run a chain, of those that are tried; newest first. */
  readonly chains: readonly string[];

  private constructor(root: Pick<Root, "suite" | "path" | "versions" | "fetched" | "chains">) {
    this.suite = root.suite;
    this.path = root.path;
    this.versions = root.versions;
    this.fetched = root.fetched;
    this.chains = root.chains;
  }

  /** @throws RootUnavailableError when this machine has not the means; Error when it has, and it failed */
  static async bring(suite: string): Promise<Root> {
    if (process.getuid?.() !== 0)
      throw new RootUnavailableError("Cannot enter another root: this needs root, and you are not root");
    const script = join(checkout, "scripts/debian-root.sh");
    // of the environment: where roots are kept, and how a proxy is reached
    const env = Object.fromEntries(
      Object.entries(process.env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
    );
    const wanted = [...packages, ...(podmanPackages[suite] ?? [])];
    const brought = await run(["sh", script, suite, ...wanted], { env, timeoutMs: 600_000, mayFail: true });
    const said = brought.stderr.trim();
    if (brought.code === 3) throw new RootUnavailableError(said.replace(/^debian-root: /, ""));
    if (brought.code !== 0) throw new Error(said);
    const path = brought.stdout.trim();
    const versions = await versionsOf(path);
    const fetched = (await stat(join(path, "complete"))).mtime.toISOString().slice(0, 10);
    return new Root({ suite, path, versions, fetched, chains: await chainsOf(path) });
  }

  /**
   * Runs a program of the root to its end; its output goes to a file. The checkout is its working directory. A signal that
   * is to end this process ends the program first.
   */
  async run(
    argv: readonly string[],
    options: {
      readonly log: string;
      readonly timeoutMs: number;
      readonly env: Readonly<Record<string, string>>;
    },
  ): Promise<Ending> {
    const began = performance.now();
    const [file = "", ...args] = [...entering(this.path), ...argv];
    const log = createWriteStream(options.log);
    const child = spawn(file, args, { env: inRoot(options.env), stdio: ["ignore", "pipe", "pipe"] });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      // the nodes of the tests end with the process that made them
      child.kill("SIGKILL");
    }, options.timeoutMs);
    let interrupted: NodeJS.Signals | undefined;
    const end = (signal: NodeJS.Signals): void => {
      interrupted = signal;
      child.kill(signal);
    };
    for (const name of endings) process.on(name, end);
    const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
    for (const name of endings) process.off(name, end);
    if (interrupted !== undefined) process.kill(process.pid, interrupted);
    clearTimeout(timer);
    log.end();
    await finished(log);
    const seconds = Math.round((performance.now() - began) / 1000);
    return { code: code ?? 128 + signalNumber(signal), seconds, timedOut };
  }
}

/** The command in front of a command that is to run in a root. */
function entering(path: string): string[] {
  const script = join(import.meta.dirname, "enter-root.sh");
  return ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", script, path, checkout];
}

function inRoot(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  const env = cleanEnv({ NO_COLOR: "1", ...extra });
  return { ...env, PATH: `${join(checkout, "node_modules/.bin")}:${env.PATH}` };
}

async function sayIn(path: string, argv: readonly string[], stdin = ""): Promise<string> {
  const env = inRoot(argv[0]?.startsWith("/usr/lib/cni/") ? { CNI_COMMAND: "VERSION" } : {});
  return (await run([...entering(path), ...argv], { env, stdin })).stdout;
}

async function versionsOf(path: string): Promise<Versions> {
  const version = async (argv: readonly string[], pattern: RegExp): Promise<string> => {
    const text = await sayIn(path, argv);
    const found = pattern.exec(text)?.[1];
    if (found === undefined)
      throw new Error(`Cannot read a version from what "${argv.join(" ")}" says: ${text}`);
    return found;
  };
  const number = String.raw`(\d+(?:\.\d+)+)`;
  const ofPackages = await readFile(join(path, "packages"), "utf8");
  return {
    containerd: await version(["containerd", "--version"], new RegExp(` ${number}`)),
    runc: await version(["runc", "--version"], new RegExp(` ${number}`)),
    iptables: await version(["iptables", "--version"], new RegExp(`v${number}`)),
    nftables: await version(["nft", "--version"], new RegExp(`v${number}`)),
    plugins: new RegExp(`^containernetworking-plugins ${number}`, "m").exec(ofPackages)?.[1] ?? "",
    podman: /^podman /m.test(ofPackages)
      ? await version(["podman", "--version"], new RegExp(` ${number}`))
      : "",
  };
}

/** Source: CNI specification 1.1.0, "VERSION: probe plugin version support". */
async function chainsOf(path: string): Promise<string[]> {
  const supported = await Promise.all(
    ["bridge", "host-local", "portmap", "loopback"].map(async (name) => {
      const stdin = JSON.stringify({ cniVersion: "1.0.0" });
      const answer = JSON.parse(await sayIn(path, [`/usr/lib/cni/${name}`], stdin)) as {
        supportedVersions: string[];
      };
      return answer.supportedVersions;
    }),
  );
  return chainVersions.filter((version) => supported.every((list) => list.includes(version)));
}
