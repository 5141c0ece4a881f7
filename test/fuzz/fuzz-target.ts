// SPDX-License-Identifier: Apache-2.0
// What can be fuzzed: a parser of others' bytes, with the promises that it keeps for every input.

/** A parser under test. */
export interface FuzzTarget {
  readonly name: string;
  /** Whose bytes they are. */
  readonly whose: string;
  /** Inputs to begin with, good and bad ones. */
  readonly seeds: () => readonly (Uint8Array | string)[];
  /** Words of the format, which chance would take long to find. */
  readonly words: readonly string[];
  /**
   * Reads one input, and throws where a promise is broken: failures that the parser announces are caught here, all others are faults.
   * Whoever calls it sees to it that it ends soon.
   */
  readonly run: (input: Uint8Array) => void;
}

/** Runs a parser; `undefined` when it refuses its input by an error that it announces. @throws any other error */
export function parsed<T>(parse: () => T, isAnnounced: (error: unknown) => boolean): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (isAnnounced(error)) return undefined;
    throw error;
  }
}
