// SPDX-License-Identifier: Apache-2.0
// The one list of what starts and stops: its order both ways, and failures on either.
import { expect, test } from "vitest";
import { Lifecycle, type Stage } from "../../src/agent/lifecycle.ts";
import { type Logger, silentLogger } from "../../src/log/logger.ts";

/** What was done, as `start a` or `stop a`; a stage named in `breaks` fails at that. */
function recorded(names: readonly string[], breaks: readonly string[] = []) {
  const done: string[] = [];
  const errors: { fields: object; message: string }[] = [];
  const act = (what: string) => async (): Promise<void> => {
    done.push(`${what} begins`);
    await Promise.resolve();
    if (breaks.includes(what)) throw new Error(`${what} failed`);
    done.push(what);
  };
  const stages: Stage[] = names.map((name) => ({
    name,
    start: act(`start ${name}`),
    stop: act(`stop ${name}`),
  }));
  const log: Logger = { ...silentLogger, error: (fields, message) => void errors.push({ fields, message }) };
  const whole = (): string[] => done.filter((what) => !what.endsWith("begins"));
  return { lifecycle: new Lifecycle(stages, log), done, whole, errors, stages, log };
}

test("each stage starts when the one before it has, and stops when the one after it has", async () => {
  const { lifecycle, done } = recorded(["a", "b"]);
  await lifecycle.start();
  expect(done).toEqual(["start a begins", "start a", "start b begins", "start b"]);
  done.length = 0;
  await lifecycle.stop();
  expect(done).toEqual(["stop b begins", "stop b", "stop a begins", "stop a"]);
});

test("a stage that cannot start stops those before it, itself and those after it not, and its failure is told", async () => {
  const { lifecycle, whole, errors } = recorded(["a", "b", "c", "d"], ["start c"]);
  await expect(lifecycle.start()).rejects.toThrow("start c failed");
  expect(whole()).toEqual(["start a", "start b", "stop b", "stop a"]);
  expect(errors).toEqual([]);
});

test("a stop that throws keeps no other from stopping, and is told of", async () => {
  const { lifecycle, whole, errors } = recorded(["a", "b", "c"], ["stop b"]);
  await lifecycle.start();
  await lifecycle.stop();
  expect(whole().slice(3)).toEqual(["stop c", "stop a"]);
  expect(errors).toEqual([
    {
      fields: { part: "b", err: expect.objectContaining({ message: "stop b failed" }) },
      message: "cannot stop a part of the agent",
    },
  ]);
});

test("a start that fails is what is told, also when a stop fails after it", async () => {
  const { lifecycle, whole, errors } = recorded(["a", "b", "c"], ["stop b", "start c"]);
  await expect(lifecycle.start()).rejects.toThrow("start c failed");
  expect(whole()).toEqual(["start a", "start b", "stop a"]);
  expect(errors).toHaveLength(1);
});

test("a stage that throws at once is like one that rejects", async () => {
  const { stages, log, whole } = recorded(["a"]);
  const broken: Stage = {
    name: "broken",
    start: () => {
      throw new Error("no");
    },
  };
  await expect(new Lifecycle([...stages, broken], log).start()).rejects.toThrow("no");
  expect(whole()).toEqual(["start a", "stop a"]);
});

test("a stage without a start, or without a stop, is passed by", async () => {
  const { stages, log, whole } = recorded(["a"]);
  const lifecycle = new Lifecycle([{ name: "only stops" }, ...stages, { name: "only starts" }], log);
  await lifecycle.start();
  await lifecycle.stop();
  expect(whole()).toEqual(["start a", "stop a"]);
});
