// SPDX-License-Identifier: Apache-2.0
// A process of a test node that finds none of the machine's programs: the folders in which they are looked for are empty for it.
import { run } from "./run.ts";

/** Starts what follows it, with the same process number. Libraries stay, and what is called by another path. */
export const WITHOUT_PROGRAMS: readonly string[] = [
  "unshare",
  "--mount",
  "--propagation=slave",
  "sh",
  "-c",
  'for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do mount -t tmpfs none "$folder" || exit 9; done; exec "$@"',
  "sh",
];

/** Once in a node: what is mounted in it later, as network namespaces are, is seen by such processes too. */
export async function allowWithoutPrograms(): Promise<void> {
  await run(["mount", "--make-rshared", "/"]);
}
