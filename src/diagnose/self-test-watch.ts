// SPDX-License-Identifier: Apache-2.0
// The self-test at the agent's start, repeated until nothing that pods need is missing or unknown.
import type { Logger } from "../log/logger.ts";
import { KeepTrue } from "../loop/keep-true.ts";
import type { Finding } from "./finding.ts";
import { KERNEL_UNKNOWN } from "./kernel-features.ts";
import { runSelfTest, type SelfTestOptions } from "./self-test.ts";

export interface SelfTestWatchOptions extends SelfTestOptions {
  readonly log: Logger;
  /** What is missing, each with its fix; undefined when nothing is. Called after each test. */
  onstate(fault: string | undefined): void;
  /** Pause between tests while something is missing or unknown, default 5 s. */
  readonly retryMs?: number;
}

const defaultRetryMs = 5_000;
/** For a program, or an API server, that may not have answered in the time that it has at first. */
const patientMs = 10_000;

/** Tests in the background; each finding is said once. */
export class SelfTestWatch {
  readonly #options: SelfTestWatchOptions;
  readonly #said = new Set<string>();
  readonly #tests: KeepTrue;
  /** Once something was missing or unknown: a busy node stays busy, and nobody waits for these tests. */
  #isPatient = false;
  #wasUnknown = false;

  constructor(options: SelfTestWatchOptions) {
    this.#options = options;
    this.#tests = new KeepTrue({ work: (signal) => this.#test(signal) });
  }

  /** Resolves after the first test. */
  async start(): Promise<void> {
    await this.#tests.request();
  }

  /** No further test, and no word of one that is under way: it only looks, so nobody has to wait for it. */
  stop(): void {
    void this.#tests.stop();
  }

  async #test(stopped: AbortSignal): Promise<void> {
    const patience = this.#isPatient ? { toolTimeoutMs: patientMs, apiTimeoutMs: patientMs } : {};
    const found = await runSelfTest({ ...this.#options, ...patience });
    if (stopped.aborted) return;
    for (const finding of found) this.#say(finding);
    const failed = found.filter(({ level }) => level === "fail");
    this.#options.onstate(failed.length === 0 ? undefined : failed.map(describe).join("; "));
    this.#sayKnown(found);
    if (failed.length === 0 && !this.#wasUnknown) return;
    this.#isPatient = true;
    this.#tests.requestIn(this.#options.retryMs ?? defaultRetryMs);
  }

  /** What was not known, and is. */
  #sayKnown(found: readonly Finding[]): void {
    const kernel = found.find(({ id, level }) => id === "kernel" && level === "ok");
    if (this.#wasUnknown && kernel !== undefined) this.#options.log.info({}, `self-test: ${kernel.what}`);
    this.#wasUnknown = found.some(({ id }) => id === KERNEL_UNKNOWN);
  }

  #say(finding: Finding): void {
    const { id, level, what, fix } = finding;
    if (level === "ok" || this.#said.has(what)) return;
    this.#said.add(what);
    // what keeps the agent from its work is told by readiness; an API server that is away for a moment is no error of ours
    this.#options.log.warn({ check: id, found: level, fix }, `self-test: ${what}`);
  }
}

function describe({ what, fix }: Finding): string {
  return fix === null ? what : `${what}: ${fix}`;
}
