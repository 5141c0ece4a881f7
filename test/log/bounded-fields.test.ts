// SPDX-License-Identifier: Apache-2.0
// A log line stays short, whatever somebody else's words are.
import { expect, test } from "vitest";
import { createLoggers } from "../../src/log/logger.ts";

function lineOf(fields: object, message = "said", format: "json" | "pretty" = "json"): string {
  const lines: string[] = [];
  const settings = { level: "info", scopes: {}, format } as const;
  createLoggers(settings, { destination: { write: (line) => lines.push(line) } })
    .scope("kube")
    .error(fields, message);
  expect(lines).toHaveLength(1);
  return lines[0] as string;
}

const long = "é\u001b[2J\n".repeat(100_000);

class PeerError extends Error {
  readonly code = "SAID";
  readonly words: unknown = long;
}

const deep = JSON.parse(`${'{"a":'.repeat(1000)}1${"}".repeat(1000)}`) as object;

test.each<[string, object]>([
  ["a text", { reason: long }],
  ["a name of a field", { [long]: 1 }],
  ["many fields", Object.fromEntries(Array.from({ length: 10_000 }, (_, index) => [`f${index}`, "x"]))],
  ["a list", { items: Array.from({ length: 100_000 }, () => "x") }],
  ["a list of long texts", { items: Array.from({ length: 30 }, () => "x".repeat(100)) }],
  ["objects in objects", deep],
  ["an error", { err: new PeerError(long) }],
  ["a cause", { err: new Error("short", { cause: new PeerError(long) }) }],
  [
    "many errors",
    {
      err: new AggregateError(
        Array.from({ length: 500 }, () => new Error("x")),
        "several",
      ),
    },
  ],
])("a line with %s without end is cut", (_, fields) => {
  for (const format of ["json", "pretty"] as const) {
    const line = lineOf(fields, "said", format);
    expect(line.length).toBeLessThan(120_000);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
    expect(line).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/);
    if (format === "json") expect(line.trimEnd()).not.toContain("\n");
  }
});

test("a message without end is cut", () => {
  expect(JSON.parse(lineOf({}, long)).msg.length).toBeLessThan(4096);
});

test("what is short stays as it is", () => {
  const fields = { ns: "shop", ms: 12, list: ["a", 1, null], nested: { a: { b: true } }, none: undefined };
  expect(JSON.parse(lineOf(fields))).toMatchObject({
    ns: "shop",
    ms: 12,
    list: ["a", 1, null],
    nested: { a: { b: true } },
  });
});

test("an error keeps its kind, its code, its cause and its stack", () => {
  const cause = new RangeError("too far");
  const { err } = JSON.parse(
    lineOf({ err: Object.assign(new PeerError("no", { cause }), { words: 7 }) }),
  ) as {
    err: Record<string, unknown>;
  };
  expect(err).toMatchObject({ type: "PeerError", message: "no: too far", code: "SAID", words: 7 });
  expect(err.stack).toContain("bounded-fields.test.ts");
});

test("the rest of a list is counted", () => {
  const { items } = JSON.parse(lineOf({ items: Array.from({ length: 40 }, (_, index) => index) })) as {
    items: unknown[];
  };
  expect(items.slice(30)).toEqual([30, 31, "… 8 more"]);
});
