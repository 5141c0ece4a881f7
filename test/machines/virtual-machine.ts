// SPDX-License-Identifier: Apache-2.0
// One virtual machine from its disks to its end: qemu plays the processor, so it needs nothing of this machine's.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { run, signalNumber } from "../support/node/run.ts";
import { type ConsoleWord, readConsoleLine } from "./console.ts";
import type { Machine } from "./plan.ts";

const checkout = join(import.meta.dirname, "../..");
const endings = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Why there can be no such machine here, as one sentence. */
export class MachineUnavailableError extends Error {
  override readonly name = "MachineUnavailableError";
}

/** How a machine ended. */
export interface Ending {
  readonly timedOut: boolean;
  /** Seconds from start to end. */
  readonly seconds: number;
  /** Exit code of the program that plays it. */
  readonly code: number;
  /** The signal that is to end this process. */
  readonly interrupted: NodeJS.Signals | undefined;
}

/** Runs one of the project's scripts that bring something. @throws MachineUnavailableError for what cannot be had here */
async function bring(argv: readonly string[]): Promise<string> {
  // of the environment: where things are kept, and how a proxy is reached
  const env = Object.fromEntries(
    Object.entries(process.env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
  const { code, stdout, stderr } = await run(argv, { env, timeoutMs: 900_000, mayFail: true });
  if (code === 3) throw new MachineUnavailableError(stderr.trim().replace(/^[a-z-]+: /, ""));
  if (code !== 0) throw new Error(stderr.trim());
  return stdout.trim();
}

/** Kernel, initramfs and root of a machine; made when they are not kept from an earlier run. @returns their folder */
export async function bringImage(
  { suite, arch }: Pick<Machine, "suite" | "arch">,
  packages: readonly string[],
): Promise<string> {
  return await bring(["nice", "sh", join(import.meta.dirname, "image.sh"), suite, arch, ...packages]);
}

/** The checkout's disk. */
export async function makeCheckoutDisk(arch: Machine["arch"], path: string): Promise<void> {
  await bring(["nice", "sh", join(import.meta.dirname, "checkout.sh"), arch, path]);
}

/** A machine to boot. */
export interface BootOptions {
  /** Folder with vmlinuz, initrd and root.img. */
  readonly image: string;
  readonly checkoutDisk: string;
  /** What init.sh is to do. */
  readonly script: string;
  /** Folder for what the machine said: console.log, and what its steps left. */
  readonly logs: string;
  readonly timeoutMs: number;
  /** One machine at a time has this place, whoever runs it. */
  readonly place: number;
  readonly onword: (word: ConsoleWord) => void;
}

/**
 * Boots a machine and waits for its end; no disk keeps what it wrote but the one of its results. A signal that is to end this process
 * ends the machine, and is the caller's to follow; the death of this process ends the machine too.
 *
 * @returns how it ended; what it left is in the folder of the logs then
 */
export async function boot({ arch, kernelWords = [] }: Machine, options: BootOptions): Promise<Ending> {
  const work = await mkdtemp(join(tmpdir(), "ambient-cni-machine-"));
  try {
    const [script, results] = [join(work, "steps.sh"), join(work, "results")];
    await writeFile(script, options.script);
    await writeFile(results, "");
    // disks have whole sectors; a file with a hole takes no room
    await truncate(script, 65_536);
    await truncate(results, 64 << 20);
    const disks = { ...options, script, results };
    const ending = await play(qemuArguments({ arch, kernelWords }, disks), options);
    await mkdir(options.logs, { recursive: true });
    // nothing there where it ended before its first word
    await run(["tar", "-C", options.logs, "-xf", results], { mayFail: true });
    return ending;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Source: qemu(1); the guest sees the disks in the order in which they stand here. */
function qemuArguments(
  { arch, kernelWords }: { readonly arch: Machine["arch"]; readonly kernelWords: readonly string[] },
  disks: Pick<BootOptions, "image" | "checkoutDisk"> & { readonly script: string; readonly results: string },
): string[] {
  const program =
    arch === "amd64"
      ? ["qemu-system-x86_64", "-cpu", "max"]
      : // the pointers' own arithmetic would take a third of the time. Source: qemu's documentation, "Arm CPU Features"
        ["qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on"];
  const kept = "format=raw,cache=unsafe";
  const drives = [
    `file=${disks.image}/root.img,${kept},snapshot=on`,
    `file=${disks.checkoutDisk},${kept},snapshot=on`,
    `file=${disks.script},${kept},readonly=on`,
    `file=${disks.results},${kept}`,
  ];
  const serial = arch === "amd64" ? "ttyS0" : "ttyAMA0";
  const words = [`console=${serial}`, "quiet", "loglevel=3", "panic=1", "mitigations=off", "nokaslr"];
  return [
    ...program,
    // The processors take turns. With a thread for each, qemu 7.2 translates code once more while another processor is changing it, and
    // never hears of the change: of 180 changed instructions 8 were never executed by the other processor, of 4447 that take turns none.
    // V8 changes code under way as WebAssembly gets faster, then frees the old: 2 of 30 runs of Node ended in a page that was gone.
    ...["-accel", "tcg,thread=single", "-smp", "2", "-m", "3072"],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"],
    ...["-kernel", join(disks.image, "vmlinuz"), "-initrd", join(disks.image, "initrd")],
    ...["-append", [...words, ...kernelWords].join(" ")],
    ...drives.flatMap((drive, index) => [
      ...["-drive", `${drive},if=none,id=disk${index}`],
      ...["-device", `virtio-blk-pci,drive=disk${index}`],
    ]),
    ...["-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random"],
  ];
}

async function play(
  argv: readonly string[],
  { logs, timeoutMs, place, onword }: BootOptions,
): Promise<Ending> {
  const began = performance.now();
  await mkdir(logs, { recursive: true });
  const log = createWriteStream(join(logs, "console.log"));
  // more than this machine has processors would take each other's time
  const lock = join(tmpdir(), `ambient-cni-machine-${place}.lock`);
  const alone = ["setpriv", "--pdeathsig", "KILL", "--", "flock", "--no-fork", lock, "nice", "-n", "5"];
  const [file = "", ...args] = [...alone, ...argv];
  const child = spawn(file, args, { cwd: checkout, stdio: ["ignore", "pipe", "pipe"] });
  createInterface({ input: child.stdout }).on("line", (line) => {
    log.write(`${line}\n`);
    const word = readConsoleLine(line);
    if (word !== undefined) onword(word);
  });
  createInterface({ input: child.stderr }).on("line", (line) => log.write(`qemu: ${line}\n`));
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  let interrupted: NodeJS.Signals | undefined;
  const end = (signal: NodeJS.Signals): void => {
    interrupted = signal;
    child.kill("SIGKILL");
  };
  for (const name of endings) process.on(name, end);
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  for (const name of endings) process.off(name, end);
  clearTimeout(timer);
  log.end();
  const seconds = Math.round((performance.now() - began) / 1000);
  return { timedOut, seconds, code: code ?? 128 + signalNumber(signal), interrupted };
}
