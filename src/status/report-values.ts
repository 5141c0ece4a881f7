// SPDX-License-Identifier: Apache-2.0
// Values of which the state API's reports are made, with what a schema can say of them: scripts/state-schema.ts reads the tags.

/**
 * A moment: ISO 8601, UTC, with milliseconds.
 *
 * @format date-time
 */
export type IsoTime = string;

/**
 * A number of things, or one that names a thing.
 *
 * @integer
 * @minimum 0
 */
export type Count = number;

/**
 * `Netns.key` of a network namespace: `dev:ino`.
 *
 * @pattern ^[0-9]+:[0-9]+$
 */
export type NetnsKey = string;

/**
 * SHA-256 in hexadecimal.
 *
 * @pattern ^[0-9a-f]{64}$
 */
export type Sha256 = string;
