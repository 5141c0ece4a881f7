// SPDX-License-Identifier: Apache-2.0
// Keeping to a bound, and to few words about what does not. Pure.

/** Whether a text has at most so many bytes of UTF-8. */
export function fits(text: string, { bytes }: { readonly bytes: number }): boolean {
  if (text.length > bytes) return false;
  // a UTF-16 unit is three bytes at most
  return text.length * 3 <= bytes || Buffer.byteLength(text) <= bytes;
}

/** The text, or as much of it as fits with a "…" behind it; what is cut off keeps no memory. */
export function cutText(text: string, { bytes }: { readonly bytes: number }): string {
  return fits(text, { bytes }) ? text : `${head(text, bytes - 3)}…`;
}

/** A copy: a slice of V8's would keep the whole text alive. */
function head(text: string, bytes: number): string {
  const buffer = Buffer.from(text.slice(0, bytes + 1));
  let end = bytes;
  while (end > 0 && ((buffer[end] ?? 0) & 0xc0) === 0x80) end--;
  return buffer.toString("utf8", 0, end);
}

/** The first few, and a last one that says how many more there were. */
export function firstFew<T>(
  items: readonly T[],
  { count, more }: { readonly count: number; readonly more: (rest: number) => T },
): readonly T[] {
  return items.length <= count ? items : [...items.slice(0, count), more(items.length - count)];
}

/** Whether the nth of many alike is said: the first three, then each power of ten. */
export function isTold(nth: number): boolean {
  return nth <= 3 || /^10*$/.test(String(nth));
}

/** Puts an entry behind all others, and takes the first one out where there are more than so many. */
export function putLast<K, V>(map: Map<K, V>, [key, value]: readonly [K, V], most: number): void {
  map.delete(key);
  map.set(key, value);
  const [first] = map.keys();
  if (map.size > most && first !== undefined) map.delete(first);
}
