// SPDX-License-Identifier: Apache-2.0
// The bytes of a CNI configuration file as text, and the names of files that runtimes read.

/**
 * The bytes of a configuration file as text with one character per byte (latin1), so that writing it back gives
 * the same bytes whatever they are; JSON's own characters are ASCII.
 */
export type ConfText = string;

/** Bytes of a file as {@link ConfText}. */
export function confTextOf(bytes: Uint8Array): ConfText {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

/** The bytes a {@link ConfText} stands for. */
export function confBytes(text: ConfText): Buffer {
  return Buffer.from(text, "latin1");
}

/** JSON for a file, whatever characters are in the value. */
export function jsonText(value: unknown, indent?: number): ConfText {
  return confTextOf(Buffer.from(JSON.stringify(value, null, indent)));
}

/** Names of files that runtimes read in their folder. Source: containerd/go-cni opts.go, loadFromConfDir */
export function isConfName(fileName: string): boolean {
  return /^[^/]+\.(conf|conflist|json)$/.test(fileName);
}

/**
 * Names of files that belong to the list of a network, in the folder of that network's name beside it, as `NETWORK/FILE.conf`.
 * Source: containernetworking/cni libcni/conf.go, NetworkPluginConfsFromFiles
 */
export function isPartName(fileName: string): boolean {
  return /^[^/]+\/[^/]+\.conf$/.test(fileName);
}

/** Byte order, as Go sorts strings. */
export function compareNames(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
