// SPDX-License-Identifier: Apache-2.0
// Random JSON texts, odd in all the ways that the grammar allows, from a seed.

/** Numbers in [0, below), the same for the same seed (mulberry32). */
export type Random = (below: number) => number;

export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

const spaces = ["", "", "", " ", "\n", "\t", "\r\n  "];
const scalars = [
  "0",
  "-0",
  "1.5e3",
  "-12E-2",
  "true",
  "false",
  "null",
  '""',
  '"\\u0000\\ud800"',
  '"ä😀\\/\\""',
  "1e400",
];
const names = [
  "a",
  "exempt",
  "prevResult",
  "cniVersion",
  "cni_agent_run_dir",
  "agent_wait_seconds",
  "",
  "__proto__",
];

function space(random: Random): string {
  return spaces[random(spaces.length)]!;
}

/** A string with some of its characters escaped. */
export function randomString(random: Random, text: string): string {
  const parts = [...text].map((character) =>
    random(4) === 0 && character.length === 1
      ? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
      : JSON.stringify(character).slice(1, -1),
  );
  return `"${parts.join("")}"`;
}

/** A value, at most `depth` deep. */
export function randomValue(random: Random, depth: number): string {
  const kind = depth > 0 ? random(4) : 3;
  const count = random(4);
  if (kind === 0)
    return `[${space(random)}${Array.from({ length: count }, () => randomValue(random, depth - 1)).join(`${space(random)},${space(random)}`)}${space(random)}]`;
  if (kind < 3) return randomObject(random, depth, count);
  return scalars[random(scalars.length)]!;
}

/** An object whose members may be those of the launcher. */
export function randomObject(random: Random, depth: number, count: number): string {
  const members = Array.from({ length: count }, () => {
    const name = randomString(random, names[random(names.length)]!);
    return `${space(random)}${name}${space(random)}:${space(random)}${randomValue(random, depth - 1)}${space(random)}`;
  });
  return `{${space(random)}${members.join(",")}}`;
}
