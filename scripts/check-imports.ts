// SPDX-License-Identifier: Apache-2.0
// Which room of src/ may import which: ARCHITECTURE.md's sentence as a table, and the check that fails where it is not true,
// or where files import each other.
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** A folder of src/, or a file that lies in src/ itself. */
export interface Room {
  readonly name: string;
  /** Rooms whose files may be imported, types included. */
  readonly may: readonly string[];
}

/** An import of one file by another; paths are relative to src/. */
export interface Import {
  readonly from: string;
  readonly to: string;
}

const ground = ["bounds", "log", "loop", "linux"];
/** What one pod's redirection is made of, from the engines up to the verdict on it. */
const capture = [...ground, "kube", "config", "netfilter", "redirection", "check", "probes"];
/** And what decides for the pods of a node. */
const node = [...capture, "ports", "ztunnel", "enrolment", "cni"];

/** From the ground up: a room may import rooms that stand before it, so that no two can ever import each other. */
export const rooms: readonly Room[] = [
  { name: "version", may: [] },
  // the text of a chain, parsed and edited; pure
  { name: "conflist", may: [] },
  // how much of anybody's words there may be
  { name: "bounds", may: [] },
  // protobuf's wire format; pure
  { name: "protobuf", may: [] },
  { name: "log", may: ["bounds"] },
  { name: "loop", may: ["log"] },
  { name: "linux", may: ["bounds", "log", "loop"] },
  // the one server of all that listens: it knows time and bytes, and nothing of what it serves
  { name: "ports", may: ["log", "loop"] },
  // the container runtime's word: it hands on what it hears, and knows nothing of the mesh
  { name: "nri", may: ["bounds", "log", "loop", "protobuf"] },
  { name: "kube", may: ["bounds", "log", "loop"] },
  // text of the environment and the command line, read leniently
  { name: "settings", may: ["kube", "log"] },
  { name: "config", may: ["kube", "log", "settings"] },
  // sidecar pods that started without their rules; how those are written is given from outside
  { name: "repair", may: [...ground, "kube", "settings"] },
  { name: "netfilter", may: ground },
  { name: "redirection", may: [...ground, "netfilter"] },
  // the one verdict on a pod's capture: whoever asks stands above
  { name: "check", may: [...ground, "netfilter", "redirection"] },
  { name: "ztunnel", may: [...ground, "ports", "protobuf"] },
  { name: "probes", may: [...ground, "netfilter", "redirection"] },
  { name: "enrolment", may: [...ground, "kube", "netfilter", "redirection", "ztunnel", "probes"] },
  { name: "cni", may: [...ground, "ports", "kube", "enrolment", "conflist"] },
  { name: "install", may: [...ground, "kube", "config", "conflist"] },
  // leaving a node takes everything apart that the agent is made of
  { name: "uninstall", may: [...node, "conflist", "install"] },
  { name: "status", may: [...node, "settings", "repair", "version"] },
  { name: "diagnose", may: [...capture, "settings", "repair", "conflist", "install", "uninstall", "status"] },
  // a page for people, and what it asks the agent and the kernel
  { name: "dashboard", may: [...ground, "config", "netfilter", "redirection", "status", "diagnose"] },
  // the self-test at the start is a part of the agent
  {
    name: "agent",
    may: [...node, "nri", "repair", "conflist", "install", "uninstall", "status", "diagnose"],
  },
  {
    name: "cli",
    may: [
      ...ground,
      "settings",
      "config",
      "redirection",
      "conflist",
      "install",
      "uninstall",
      "status",
      "diagnose",
      "dashboard",
    ],
  },
  { name: "main", may: ["log", "version", "settings", "config", "cli", "agent"] },
];

/** Files outside src/ that may be imported all the same. */
const outside: ReadonlySet<string> = new Set(["../package.json"]);

/** What is wrong with the imports, and with the table itself; one line each, none when all is well. Pure. */
export function findImportFaults(imports: readonly Import[], table: readonly Room[] = rooms): string[] {
  const faults = tableFaults(table);
  const mayOf = new Map(table.map(({ name, may }) => [name, may]));
  for (const { from, to } of imports) {
    const [importer, imported] = [roomOf(from), roomOf(to)];
    if (importer === imported || outside.has(to)) continue;
    const may = mayOf.get(importer);
    if (may === undefined)
      faults.push(`src/${from} is in no room of the table: add "${importer}" to scripts/check-imports.ts`);
    else if (!may.includes(imported))
      faults.push(
        `src/${from} must not import ${to}: ${importer} may import ${may.join(", ") || "no other room"}`,
      );
  }
  return faults;
}

/** Files that import each other, by whatever way round, each circle named once; types count. Pure. */
export function findCircles(imports: readonly Import[]): string[] {
  const targets = new Map(imports.map(({ from }) => [from, new Set<string>()]));
  for (const { from, to } of imports) if (targets.has(to)) targets.get(from)?.add(to);
  const faults: string[] = [];
  for (;;) {
    peel(targets);
    const circle = walkRound(targets);
    if (circle === undefined) return faults;
    faults.push(`imports run in a circle: ${circle.map((file) => `src/${file}`).join(" -> ")}`);
    for (const file of circle) targets.delete(file);
  }
}

/** Takes away what imports nothing that is left, again and again: what remains leads into a circle, or is in one. */
function peel(targets: Map<string, Set<string>>): void {
  let before: number;
  do {
    before = targets.size;
    for (const [file, imported] of targets) {
      for (const each of imported) if (!targets.has(each)) imported.delete(each);
      if (imported.size === 0) targets.delete(file);
    }
  } while (targets.size < before);
}

/** Everything left imports something that is left, so a walk comes back to where it was. */
function walkRound(targets: ReadonlyMap<string, ReadonlySet<string>>): string[] | undefined {
  const way: string[] = [];
  let [file] = targets.keys();
  while (file !== undefined) {
    const start = way.indexOf(file);
    way.push(file);
    if (start >= 0) return way.slice(start);
    [file] = targets.get(file) ?? [];
  }
  return undefined;
}

/** A room that names one at or above its own place makes a circle possible. */
function tableFaults(table: readonly Room[]): string[] {
  const faults: string[] = [];
  const below = new Set<string>();
  for (const { name, may } of table) {
    for (const each of may)
      if (!below.has(each))
        faults.push(`the table lets ${name} import ${each}, which does not stand below it`);
    below.add(name);
  }
  return faults;
}

function roomOf(path: string): string {
  const [first = "", ...rest] = path.split("/");
  return rest.length === 0 ? first.replace(/\.ts$/, "") : first;
}

/** All imports of files by files, types and `import()` included. */
export function readImports(folder: string): Import[] {
  return globSync("**/*.ts", { cwd: folder }).flatMap((from) =>
    importsIn(readFileSync(join(folder, from), "utf8")).map((target) => ({
      from,
      to: join(dirname(from), target),
    })),
  );
}

/** Paths that a source text imports; packages are left out. */
export function importsIn(text: string): string[] {
  const found = text.matchAll(
    /^\s*(?:import|export)\b[^"'`;]*?from\s+"(\.[^"]+)"|\bimport\s*\(?\s*"(\.[^"]+)"/gm,
  );
  return Array.from(found, ([, from, direct]) => from ?? direct ?? "");
}

function main(): number {
  const imports = readImports(join(import.meta.dirname, "../src"));
  const faults = [...findImportFaults(imports), ...findCircles(imports)];
  for (const fault of faults) process.stdout.write(`${fault}\n`);
  return faults.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = main();
