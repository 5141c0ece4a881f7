// SPDX-License-Identifier: Apache-2.0
// A command line that cannot be used: one sentence, exit code 2.

/** Arguments that cannot be used; the message is one sentence for the person who typed them. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
