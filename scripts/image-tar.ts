// SPDX-License-Identifier: Apache-2.0
// Writes tar archives whose bytes depend on nothing but their entries: sorted, owned by root, one time for all.
// Source: POSIX.1-2017 pax, "ustar Interchange Format".

/** One path of an archive; paths are relative, without "." in front. */
export type TarEntry =
  | { readonly path: string; readonly kind: "file"; readonly data: Uint8Array; readonly mode: number }
  | { readonly path: string; readonly kind: "link"; readonly target: string }
  | { readonly path: string; readonly kind: "folder"; readonly mode: number };

const blockBytes = 512;
const typeFlags = { file: "0", link: "2", folder: "5" } as const;

/**
 * The archive of some entries, sorted by path; folders on the way that are no entries themselves get mode 0755.
 * @param options.mtimeSeconds for every entry
 * @throws Error for two entries of one path, and for paths that the format cannot hold
 */
export function writeTar(entries: readonly TarEntry[], options: { mtimeSeconds: number }): Buffer {
  const parts: Uint8Array[] = [];
  for (const entry of withFolders(entries)) {
    parts.push(header(entry, options.mtimeSeconds));
    if (entry.kind !== "file") continue;
    parts.push(entry.data, Buffer.alloc(padding(entry.data.length)));
  }
  parts.push(Buffer.alloc(2 * blockBytes));
  return Buffer.concat(parts);
}

/** Sorted, with every folder before what is in it. */
export function withFolders(entries: readonly TarEntry[]): TarEntry[] {
  const all = new Map<string, TarEntry>();
  for (const entry of entries) {
    if (all.has(entry.path)) throw new Error(`Cannot write an archive: "${entry.path}" is in it twice`);
    all.set(entry.path, entry);
  }
  for (const { path } of entries) {
    const names = path.split("/");
    for (let depth = 1; depth < names.length; depth++) {
      const folder = names.slice(0, depth).join("/");
      if (!all.has(folder)) all.set(folder, { path: folder, kind: "folder", mode: 0o755 });
    }
  }
  // by code unit, not by the machine's language
  return [...all.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function header(entry: TarEntry, mtimeSeconds: number): Buffer {
  const block = Buffer.alloc(blockBytes);
  const { prefix, name } = splitPath(entry.kind === "folder" ? `${entry.path}/` : entry.path);
  const size = entry.kind === "file" ? entry.data.length : 0;
  block.write(name, 0);
  writeOctal(block, { at: 100, width: 8, value: entry.kind === "link" ? 0o777 : entry.mode });
  writeOctal(block, { at: 108, width: 8, value: 0 });
  writeOctal(block, { at: 116, width: 8, value: 0 });
  writeOctal(block, { at: 124, width: 12, value: size });
  writeOctal(block, { at: 136, width: 12, value: mtimeSeconds });
  block.fill(" ", 148, 156);
  block.write(typeFlags[entry.kind], 156);
  if (entry.kind === "link") {
    if (Buffer.byteLength(entry.target) > 100) throw new Error(`Cannot archive "${entry.path}": long target`);
    block.write(entry.target, 157);
  }
  block.write("ustar\x0000", 257);
  block.write("root", 265);
  block.write("root", 297);
  block.write(prefix, 345);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

function splitPath(path: string): { prefix: string; name: string } {
  if (Buffer.byteLength(path) <= 100) return { prefix: "", name: path };
  for (let at = path.indexOf("/"); at > 0; at = path.indexOf("/", at + 1)) {
    const prefix = path.slice(0, at);
    const name = path.slice(at + 1);
    if (name !== "" && Buffer.byteLength(name) <= 100 && Buffer.byteLength(prefix) <= 155) {
      return { prefix, name };
    }
  }
  throw new Error(`Cannot archive "${path}": the path is too long for the format`);
}

function writeOctal(block: Buffer, field: { at: number; width: number; value: number }): void {
  block.write(`${field.value.toString(8).padStart(field.width - 1, "0")}\0`, field.at);
}

function padding(bytes: number): number {
  return (blockBytes - (bytes % blockBytes)) % blockBytes;
}
