// SPDX-License-Identifier: Apache-2.0
// Loaded into an agent before its own code: a wall clock that is ten hours ahead, then ten hours behind, and so on, as if somebody set it.

const jumpMs = 10 * 3_600_000;
const RealDate = Date;
let offsetMs = 0;

setInterval(() => {
  offsetMs = offsetMs > 0 ? -jumpMs : jumpMs;
}, 150).unref();

class JumpingDate extends RealDate {
  constructor(...of: readonly unknown[]) {
    super(...((of.length > 0 ? of : [RealDate.now() + offsetMs]) as [number]));
  }

  static override now(): number {
    return RealDate.now() + offsetMs;
  }
}

globalThis.Date = JumpingDate as DateConstructor;
