// SPDX-License-Identifier: Apache-2.0
// A folder for parsers that read files, of each thread its own; whoever started the thread takes it away.
import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { threadId } from "node:worker_threads";

let isMade = false;

/** This thread's; made when it is first asked for. */
export function scratchFolder(): string {
  const folder = folderOf(threadId);
  if (isMade) return folder;
  mkdirSync(folder, { mode: 0o700 });
  isMade = true;
  // a thread that is ended does not come to this
  process.once("exit", () => removeScratchFolder(threadId));
  return folder;
}

/** Takes away what a thread of this process has made. */
export function removeScratchFolder(thread: number): void {
  rmSync(folderOf(thread), { recursive: true, force: true });
}

function folderOf(thread: number): string {
  return join(tmpdir(), `ambient-fuzz-${process.pid}-${thread}`);
}
