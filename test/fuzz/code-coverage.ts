// SPDX-License-Identifier: Apache-2.0
// Which code under test has run in this thread, asked from V8: what leads a fuzzer to inputs that do something new.
// Source: Chrome DevTools Protocol, Profiler.takePreciseCoverage; V8 src/debug/debug-coverage.cc, for ranges inside of ranges.
import { type Profiler, Session } from "node:inspector";

/** Knows of files whose URL fits which of their characters have run. */
export class CodeCoverage implements Disposable {
  readonly #session = new Session();
  readonly #covers: RegExp;
  /** Of each function that ran, by script and place: a byte for each character, 1 when it has run. */
  readonly #ran = new Map<string, Uint8Array>();

  constructor(covers: RegExp) {
    this.#covers = covers;
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
  }

  /** Characters that have run so far, as far as {@link take} was told. */
  get count(): number {
    let count = 0;
    for (const ran of this.#ran.values()) for (const each of ran) count += each;
    return count;
  }

  /** Whether code ran since the last question that never ran before; it is known then. */
  take(): boolean {
    return this.#look({ remember: true });
  }

  /** The same, and it stays new. */
  peek(): boolean {
    return this.#look({ remember: false });
  }

  #look({ remember }: { readonly remember: boolean }): boolean {
    let isNew = false;
    for (const { scriptId, functions } of this.#ask()) {
      for (const { ranges } of functions) {
        const [whole] = ranges;
        if (whole === undefined || whole.count === 0) continue;
        const now = ranIn(ranges);
        const key = `${scriptId}:${whole.startOffset}`;
        const before = this.#ran.get(key);
        if (before !== undefined && !now.some((ran, at) => ran > (before[at] ?? 0))) continue;
        isNew = true;
        if (!remember) return true;
        for (const [at, ran] of (before ?? []).entries()) now[at] = Math.max(ran, now[at] ?? 0);
        this.#ran.set(key, now);
      }
    }
    return isNew;
  }

  #ask(): Profiler.ScriptCoverage[] {
    // answered before post returns, for the session is this thread's own
    let result: Profiler.ScriptCoverage[] | undefined;
    this.#session.post("Profiler.takePreciseCoverage", (error, answer) => {
      if (error === null) result = answer.result;
    });
    if (result === undefined) throw new Error("Cannot ask for the coverage of this thread");
    return result.filter(({ url }) => this.#covers.test(url));
  }

  [Symbol.dispose](): void {
    this.#session.disconnect();
  }
}

/** The first range is the whole function; what runs as often as what is around it has no range of its own. */
function ranIn(ranges: readonly Profiler.CoverageRange[]): Uint8Array {
  const [whole] = ranges;
  const start = whole?.startOffset ?? 0;
  const ran = new Uint8Array((whole?.endOffset ?? 0) - start);
  for (const { startOffset, endOffset, count } of ranges)
    ran.fill(count > 0 ? 1 : 0, startOffset - start, endOffset - start);
  return ran;
}
