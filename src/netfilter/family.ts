// SPDX-License-Identifier: Apache-2.0

/** IP version of a rule set. */
export type Family = 4 | 6;
