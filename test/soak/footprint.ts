// SPDX-License-Identifier: Apache-2.0
// What a process holds at a moment, and what it holds more at a later one.

/** Everything that may grow where something is not given back. */
export interface Footprint {
  /** Open descriptors by what they lead to: `socket`, `net`, `pipe`, `anon_inode:[eventpoll]`, … */
  readonly descriptors: Readonly<Record<string, number>>;
  /** What keeps the event loop going, by kind. */
  readonly handles: Readonly<Record<string, number>>;
  readonly rssMb: number;
}

/** Memory moves with the collector: more than that is growth. */
export const rssSlackMb = 15;
/** A question of the look's own, or a connection that is pooled, may be there or not. */
const countSlack = 2;

/** The kind of a descriptor by what its link in /proc says: without numbers and without names of files. Pure. */
export function descriptorKind(link: string): string {
  if (link.startsWith("/")) return "file";
  return link.replace(/:\[\d+\]$/, "");
}

/** What has grown, a line each; empty when nothing has. Pure. */
export function growth(early: Footprint, late: Footprint): string[] {
  const lines: string[] = [];
  for (const what of ["descriptors", "handles"] as const) {
    const [before, after] = [early[what], late[what]];
    for (const kind of new Set([...Object.keys(before), ...Object.keys(after)])) {
      const more = (after[kind] ?? 0) - (before[kind] ?? 0);
      if (more > countSlack) lines.push(`${what} of ${kind}: ${before[kind] ?? 0}, then ${after[kind] ?? 0}`);
    }
  }
  if (late.rssMb - early.rssMb > rssSlackMb)
    lines.push(`memory: ${Math.round(early.rssMb)} MB, then ${Math.round(late.rssMb)} MB`);
  return lines;
}

/** Counts as text: `file 4, net 3`. */
export function renderCounts(counts: Readonly<Record<string, number>>): string {
  const sorted = Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1));
  return sorted.map(([kind, count]) => `${kind} ${count}`).join(", ");
}
