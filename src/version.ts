// SPDX-License-Identifier: Apache-2.0
// Which build this is.
import manifest from "../package.json" with { type: "json" };

/** Version of the agent, from package.json. */
export const version: string = manifest.version;
