// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { LogSettings } from "../../src/log/log-levels.ts";
import { LogRing } from "../../src/log/log-ring.ts";
import { createLoggers } from "../../src/log/logger.ts";

function make(settings: LogSettings) {
  const lines: string[] = [];
  const loggers = createLoggers(settings, { destination: { write: (line) => lines.push(line) } });
  return { loggers, lines };
}

/**
 * What istioctl bug-report finds in a line: keys in any case, the last of two counts, and one of another type spoils the line.
 * Source: istio/istio tools/bug-report/pkg/processlog parseJSONLog; Go encoding/json.
 */
function readAsBugReport(line: string): { level: string; msg: string } | undefined {
  const found: Record<string, unknown> = {};
  for (const [, key = "", value = ""] of line.matchAll(/"(time|level|msg)":("(?:[^"\\]|\\.)*"|[^,}]+)/gi))
    found[key.toLowerCase()] = JSON.parse(value);
  const { time, level, msg } = found;
  if (typeof time !== "string" || typeof level !== "string" || typeof msg !== "string") return undefined;
  const isTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(time);
  return isTime && /^(fatal|error|warn|info|debug|trace)$/.test(level) && msg !== ""
    ? { level, msg }
    : undefined;
}

const info: LogSettings = { level: "info", scopes: {} };

describe("loggers", () => {
  test("write one JSON object a line, fields first", () => {
    const { loggers, lines } = make(info);
    loggers.scope("cni").info({ ns: "shop", pod: "web-0", ms: 12 }, "CNI call done");
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] ?? "")).toEqual({
      level: "info",
      time: expect.stringMatching(/^\d{4}-.*Z$/),
      scope: "cni",
      ns: "shop",
      pod: "web-0",
      ms: 12,
      msg: "CNI call done",
    });
  });

  test("write an error with its type, message and stack", () => {
    const { loggers, lines } = make(info);
    loggers.scope("kube").error({ err: new RangeError("too far") }, "cannot");
    const { err } = JSON.parse(lines[0] ?? "") as { err: Record<string, string> };
    expect(err).toMatchObject({ type: "RangeError", message: "too far" });
    expect(err.stack).toContain("logger.test.ts");
  });

  test.each([
    ["debug", ["d", "i", "w", "e"]],
    ["info", ["i", "w", "e"]],
    ["warn", ["w", "e"]],
    ["error", ["e"]],
    ["none", []],
  ] as const)("at level %s write %j", (level, expected) => {
    const { loggers, lines } = make({ level, scopes: {} });
    const log = loggers.scope("x");
    log.debug({}, "d");
    log.info({}, "i");
    log.warn({}, "w");
    log.error({}, "e");
    expect(lines.map((line) => (JSON.parse(line) as { msg: string }).msg)).toEqual(expected);
  });

  test("change levels of loggers that are in use, by scope and by default", () => {
    const { loggers, lines } = make({ level: "warn", scopes: { cni: "error" } });
    const [cni, kube] = [loggers.scope("cni"), loggers.scope("kube")];
    const written = (): number => {
      lines.length = 0;
      for (const log of [cni, kube]) log.info({}, "x");
      return lines.length;
    };
    expect(written()).toBe(0);
    loggers.setLevels([["default", "info"]]);
    expect(written()).toBe(1);
    loggers.setLevels([["cni", undefined]]);
    expect(written()).toBe(2);
    loggers.setLevels([["kube", "none"]]);
    expect(written()).toBe(1);
    expect(loggers.levels()).toEqual({ level: "info", scopes: { kube: "none" } });
  });

  test("change levels of several scopes by istio-cni's names", () => {
    const { loggers } = make(info);
    for (const scope of ["agent", "cni", "kube"]) loggers.scope(scope);
    loggers.setLevels([["cni-agent", "debug"]]);
    expect(loggers.levels()).toEqual({ level: "info", scopes: { agent: "debug", kube: "debug" } });
    loggers.setLevels([["cni-plugin", "warn"]]);
    loggers.setLevels([["cni-agent", undefined]]);
    expect(loggers.levels()).toEqual({ level: "info", scopes: { cni: "warn" } });
    loggers.setLevels([["all", "error"]]);
    expect(loggers.levels()).toEqual({ level: "error", scopes: {} });
  });

  test("write lines that istioctl bug-report can read, whatever the fields are called", () => {
    const { loggers, lines } = make({ level: "debug", scopes: {} });
    const odd = { level: 3, time: null, msg: ["x"], Level: {}, TIME: 1, Msg: "y", scope: 0, ns: "shop" };
    const log = loggers.scope("cni");
    for (const level of ["debug", "info", "warn", "error"] as const) log[level](odd, `at ${level}`);
    expect(lines.map(readAsBugReport)).toEqual(
      ["debug", "info", "warn", "error"].map((level) => ({ level, msg: `at ${level}` })),
    );
    expect(JSON.parse(lines[0] ?? "")).toMatchObject({
      ns: "shop",
      field_level: 3,
      field_Msg: "y",
      scope: "cni",
    });
  });

  test("refuse a scope nobody logs in, with the scopes there are", () => {
    const { loggers } = make(info);
    loggers.scope("cni");
    expect(() => loggers.setLevels([["nobody", "debug"]])).toThrow(/no such scope \(known: default, cni\)/);
    expect(() => loggers.setLevels([["default", undefined]])).toThrow(RangeError);
  });

  test("pretty lines are for people and keep control characters from the terminal", () => {
    const { loggers, lines } = make({ ...info, format: "pretty" });
    loggers.scope("cni").warn({ ns: "shop", reason: "two words", ms: 1.5, gone: undefined }, "odd\u001b[31m");
    expect(lines[0]).toMatch(
      /^\d\d:\d\d:\d\d\.\d{3} WARN {2}cni {7}odd\\u001b\[31m {2}ns=shop {2}reason="two words" {2}ms=1.5\n$/,
    );
    loggers.scope("cni").error({ err: new Error("why") }, "bad");
    expect(lines[1]).toMatch(/err="why"\n {4}Error: why\n {4} {4}at /);
  });
});

describe("LogRing", () => {
  const line = { level: "info", scope: "enrolment", message: "pod enrolled" } as const;

  test("keeps a pod's lines by UID and by name, also of levels that are not written", () => {
    const { loggers, lines } = make({ level: "none", scopes: {} });
    const log = loggers.scope("enrolment");
    log.info({ uid: "u1", ns: "shop", pod: "web-0" }, "one");
    log.warn({ ns: "shop", pod: "web-0", reason: "because" }, "two");
    log.debug({ uid: "u1" }, "not this one");
    log.info({ uid: "u2", ns: "shop", pod: "web-1" }, "another pod");
    log.info({}, "no pod");
    expect(lines).toEqual([]);
    const found = loggers.ring.ofPod({ ns: "shop", name: "web-0", uid: "u1" });
    expect(found.map(({ message }) => message)).toEqual(["one", "two"]);
    expect(found[1]).toMatchObject({ level: "warn", scope: "enrolment", reason: "because", uid: null });
  });

  test("keeps debug lines where debug is written", () => {
    const { loggers } = make({ level: "info", scopes: { cni: "debug" } });
    loggers.scope("cni").debug({ uid: "u1" }, "detail");
    expect(loggers.ring.ofPod({ ns: "", name: "", uid: "u1" })).toHaveLength(1);
  });

  test("is bounded in pods, lines and words", () => {
    const ring = new LogRing();
    for (let i = 0; i < 60; i++)
      ring.note({ ...line, level: "error", fields: { uid: "u1" }, message: `${i} ${"x".repeat(2000)}` });
    expect(ring.recent()).toHaveLength(50);
    const lines = ring.ofPod({ ns: "", name: "", uid: "u1" });
    expect(lines.map(({ message }) => Number.parseInt(message, 10))).toEqual(
      Array.from({ length: 20 }, (_, index) => 40 + index),
    );
    expect(lines[0]?.message.length).toBeLessThan(400);
    for (let pod = 0; pod < 255; pod++) ring.note({ ...line, fields: { uid: `other${pod}` } });
    expect(ring.ofPod({ ns: "", name: "", uid: "u1" })).toHaveLength(20);
    ring.note({ ...line, fields: { uid: "one more" } });
    expect(ring.ofPod({ ns: "", name: "", uid: "u1" })).toEqual([]);
  });

  test("keeps no token, whoever put it into a message", () => {
    const ring = new LogRing();
    const token = `eyJ${"a".repeat(20)}.${"b".repeat(20)}.${"c".repeat(20)}`;
    ring.note({
      ...line,
      level: "error",
      fields: { err: new Error(`refused ${token}`) },
      message: `Bearer ${token}`,
    });
    ring.note({ ...line, level: "warn", fields: { reason: "Authorization: bearer abc.def" }, message: "x" });
    expect(JSON.stringify(ring.recent())).not.toMatch(/eyJ|abc\.def/);
  });
});

test("a line that cannot be written, on a full disk, ends nobody", () => {
  const script = `
    import { createLoggers } from "./src/log/logger.ts";
    const log = createLoggers({ level: "info", scopes: {}, format: "json" }).scope("agent");
    log.info({}, "lost");
    setTimeout(() => process.stderr.write("alive"), 100);`;
  const full = openSync("/dev/full", "w");
  const { stderr, status } = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", script], {
    cwd: join(import.meta.dirname, "../.."),
    stdio: ["ignore", full, "pipe"],
    encoding: "utf8",
  });
  closeSync(full);
  expect({ stderr, status }).toEqual({ stderr: "alive", status: 0 });
});
