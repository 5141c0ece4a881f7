// SPDX-License-Identifier: Apache-2.0
// The last lines of the log, kept to be shown: warnings and errors of the node, and what was said of each pod.
import { putLast } from "../bounds/bounded.ts";

/** A line that is kept; fields that may be long are left out. */
export interface KeptLine {
  /** ISO time. */
  readonly at: string;
  readonly level: "debug" | "info" | "warn" | "error";
  readonly scope: string;
  readonly message: string;
  readonly ns: string | null;
  readonly pod: string | null;
  readonly uid: string | null;
  /** Reason or error of the line, in its words. */
  readonly reason: string | null;
}

/** A line as it is logged. */
export interface LoggedLine {
  readonly level: KeptLine["level"];
  readonly scope: string;
  readonly fields: object;
  readonly message: string;
}

interface Fields {
  readonly ns?: unknown;
  readonly pod?: unknown;
  readonly uid?: unknown;
  readonly reason?: unknown;
  readonly err?: unknown;
}

const maxTextLength = 300;
/** Warnings and errors. */
const maxRecent = 50;
const maxLinesPerPod = 20;
/** Pods with lines; the one that has been quiet longest goes first. */
const maxPods = 256;

/** Lines in order of their coming; at most about 3 MB. */
export class LogRing {
  readonly #recent: KeptLine[] = [];
  /** By UID where a line has one, else by `namespace/name`; the quietest pod first. */
  readonly #byPod = new Map<string, KeptLine[]>();

  /** Keeps a line if it is of a kind that is kept. */
  note({ level, scope, fields, message }: LoggedLine): void {
    const { ns, pod, uid, reason, err } = fields as Fields;
    const key = textOrNull(uid) ?? (pod === undefined || ns === undefined ? null : `${ns}/${pod}`);
    const isBad = level === "warn" || level === "error";
    if (key === null && !isBad) return;
    const why = textOrNull(reason) ?? (err instanceof Error ? err.message : null);
    const line: KeptLine = {
      at: new Date().toISOString(),
      level,
      scope,
      message: shown(message),
      ns: textOrNull(ns),
      pod: textOrNull(pod),
      uid: textOrNull(uid),
      reason: why === null ? null : shown(why),
    };
    if (isBad) push(this.#recent, line, maxRecent);
    if (key !== null) this.#notePod(key, line);
  }

  /** Warnings and errors, oldest first. */
  recent(): readonly KeptLine[] {
    return [...this.#recent];
  }

  /** What was said of a pod, oldest first. */
  ofPod(pod: { readonly ns: string; readonly name: string; readonly uid: string }): KeptLine[] {
    const byUid = this.#byPod.get(pod.uid) ?? [];
    const byName = this.#byPod.get(`${pod.ns}/${pod.name}`) ?? [];
    const both = byName.length === 0 ? [...byUid] : [...byUid, ...byName].sort(byTime);
    return both.slice(-maxLinesPerPod);
  }

  #notePod(key: string, line: KeptLine): void {
    const lines = this.#byPod.get(key) ?? [];
    push(lines, line, maxLinesPerPod);
    putLast(this.#byPod, [key, lines], maxPods);
  }
}

function push(lines: KeptLine[], line: KeptLine, max: number): void {
  lines.push(line);
  if (lines.length > max) lines.shift();
}

function byTime(a: KeptLine, b: KeptLine): number {
  return a.at < b.at ? -1 : a.at > b.at ? 1 : 0;
}

function textOrNull(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

/** Cut to length; what looks like a token is not repeated, wherever it came from. */
function shown(text: string): string {
  const safe = text
    .replace(/\beyJ[\w-]{8,}(\.[\w-]*){1,2}/g, "[token]")
    .replace(/\bBearer +\S+/gi, "Bearer [token]");
  return safe.length > maxTextLength ? `${safe.slice(0, maxTextLength)}…` : safe;
}
