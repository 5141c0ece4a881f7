// SPDX-License-Identifier: Apache-2.0
// The self-test at the agent's start, repeated until nothing that pods need is missing.
import type { Logger } from "../log/logger.ts";
import type { Finding } from "./finding.ts";
import { runSelfTest, type SelfTestOptions } from "./self-test.ts";

export interface SelfTestWatchOptions extends SelfTestOptions {
  readonly log: Logger;
  /** What is missing, each with its fix; undefined when nothing is. Called after each test. */
  onstate(fault: string | undefined): void;
  /** Pause between tests while something is missing, default 5 s. */
  readonly retryMs?: number;
}

const defaultRetryMs = 5_000;

/** Tests in the background; each finding is said once. */
export class SelfTestWatch {
  readonly #options: SelfTestWatchOptions;
  readonly #said = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(options: SelfTestWatchOptions) {
    this.#options = options;
  }

  /** Resolves after the first test. */
  async start(): Promise<void> {
    const found = await runSelfTest(this.#options);
    if (this.#isStopped) return;
    for (const finding of found) this.#say(finding);
    const failed = found.filter(({ level }) => level === "fail");
    this.#options.onstate(failed.length === 0 ? undefined : failed.map(describe).join("; "));
    if (failed.length === 0) return;
    this.#timer = setTimeout(() => void this.start(), this.#options.retryMs ?? defaultRetryMs).unref();
  }

  stop(): void {
    this.#isStopped = true;
    clearTimeout(this.#timer);
  }

  #say(finding: Finding): void {
    const { id, level, what, fix } = finding;
    if (level === "ok" || this.#said.has(what)) return;
    this.#said.add(what);
    // what keeps the agent from its work is told by readiness; an API server that is away for a moment is no error of ours
    this.#options.log.warn({ check: id, level, fix }, `self-test: ${what}`);
  }
}

function describe({ what, fix }: Finding): string {
  return fix === null ? what : `${what}: ${fix}`;
}
