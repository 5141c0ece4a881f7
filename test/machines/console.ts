// SPDX-License-Identifier: Apache-2.0
// What a machine says on its console for the program outside: init.sh's lines that begin with "@@". Pure.

/** A word from the machine. Times are seconds since its kernel started. */
export type ConsoleWord =
  | { readonly what: "up" | "off"; readonly atS: number }
  | { readonly what: "begin"; readonly step: string }
  | { readonly what: "end"; readonly step: string; readonly code: number; readonly seconds: number }
  | { readonly what: "lost"; readonly why: string };

/** Reads a line of the console; undefined for what is none of these words. */
export function readConsoleLine(line: string): ConsoleWord | undefined {
  // the kernel may have begun a line before it
  const [what, ...words] = /@@ (.*?)\r?$/.exec(line)?.[1]?.split(" ") ?? [];
  switch (what) {
    case "up":
    case "off":
      return { what, atS: Number(words[0]) };
    case "begin":
      return words[0] === undefined ? undefined : { what, step: words[0] };
    case "end": {
      const [step, code, from, to] = words;
      if (step === undefined || to === undefined) return undefined;
      return { what, step, code: Number(code), seconds: Math.round(Number(to) - Number(from)) };
    }
    case "machine":
      return words[0] === "lost" ? { what: "lost", why: words.slice(1).join(" ") } : undefined;
    default:
      return undefined;
  }
}
