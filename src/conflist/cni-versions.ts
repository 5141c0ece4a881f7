// SPDX-License-Identifier: Apache-2.0
// Which versions of the CNI spec are served, in a call and so in a chain.

/** Versions of the configuration the agent speaks, oldest first. */
export const supportedCniVersions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;
