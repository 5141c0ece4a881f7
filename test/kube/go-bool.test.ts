// SPDX-License-Identifier: Apache-2.0
// Go's booleans: exactly its twelve spellings.
import { expect, test } from "vitest";
import { parseGoBool } from "../../src/kube/json-fields.ts";

test.each(["1", "t", "T", "TRUE", "true", "True"])("parseGoBool is true when given %j", (text) => {
  expect(parseGoBool(text)).toBe(true);
});

test.each(["0", "f", "F", "FALSE", "false", "False"])("parseGoBool is false when given %j", (text) => {
  expect(parseGoBool(text)).toBe(false);
});

test.each(["", " true", "true ", "yes", "on", "tRUE", "2", "-1", "null", "truetrue"])(
  "parseGoBool refuses when given %j",
  (text) => {
    expect(parseGoBool(text)).toBeUndefined();
  },
);
