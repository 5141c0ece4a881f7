// SPDX-License-Identifier: Apache-2.0
// Changes inputs by chance, from a seed: a few small changes, words of the format, parts of other inputs.
import type { Random } from "../plugin/random-json.ts";

/** Longer inputs show nothing new and take their time. */
export const MAX_INPUT_BYTES = 16 << 10;

/** Lengths and numbers at whose edges parsers go wrong. */
const EDGES = [
  0, 1, 2, 3, 4, 7, 8, 16, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0xffffffff,
];

/** What an input may become. */
export interface Material {
  readonly inputs: readonly Uint8Array[];
  readonly words: readonly Uint8Array[];
}

/** Another input made from one of these. */
export function mutated({ inputs, words }: Material, random: Random): Uint8Array {
  const pick = <T>(list: readonly T[]): T | undefined => list[random(Math.max(1, list.length))];
  let bytes = Buffer.from(pick(inputs) ?? []);
  for (let changes = 1 + random(4); changes > 0; changes--) {
    const at = random(bytes.length + 1);
    const length = Math.min(bytes.length - at, 1 + random(random(8) === 0 ? 256 : 8));
    switch (random(9)) {
      case 0:
        if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8));
        break;
      case 1:
        if (at < bytes.length) bytes[at] = random(256);
        break;
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
        break;
      case 3: {
        const copy = Buffer.from(bytes.subarray(at, at + length));
        const times = random(4) === 0 ? 1 + random(64) : 1;
        bytes = inserted(bytes, at, ...Array.from({ length: times }, () => copy));
        break;
      }
      case 4:
        bytes = inserted(bytes, at, pick(words) ?? Buffer.of(random(256)));
        break;
      case 5: {
        const word = pick(words) ?? Buffer.of(random(256));
        bytes = Buffer.concat([bytes.subarray(0, at), word, bytes.subarray(at + word.length)]);
        break;
      }
      case 6: {
        const other = pick(inputs) ?? bytes;
        const from = random(other.length + 1);
        bytes = inserted(bytes, at, other.subarray(from, from + 1 + random(64)));
        break;
      }
      case 7: {
        const width = [1, 2, 4][random(3)] ?? 1;
        if (at + width > bytes.length) break;
        const value = (pick(EDGES) ?? 0) % 256 ** width;
        if (random(2) === 0) bytes.writeUIntLE(value, at, width);
        else bytes.writeUIntBE(value, at, width);
        break;
      }
      default:
        bytes = bytes.subarray(0, at);
    }
  }
  return bytes.subarray(0, MAX_INPUT_BYTES);
}

function inserted(bytes: Buffer, at: number, ...parts: readonly Uint8Array[]): Buffer<ArrayBuffer> {
  return Buffer.concat([bytes.subarray(0, at), ...parts, bytes.subarray(at)]);
}
