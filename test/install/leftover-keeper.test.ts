// SPDX-License-Identifier: Apache-2.0
// What istio-cni's plugin needs is left until no runtime that read the chain of before can still be calling it.
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { LeftoverKeeper } from "../../src/install/leftover-keeper.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { FakeClock } from "../support/fake-clock.ts";

let root: string;
let clock: FakeClock;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "leftover-"));
  clock = new FakeClock();
  for (const name of ["net", "bin", "run", "host/var/lib/cni"])
    mkdirSync(join(root, name), { recursive: true });
  writeFileSync(kubeconfig(), "token");
  writeFileSync(plugin(), "istio-cni's");
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const kubeconfig = () => join(root, "run/istio-cni-kubeconfig");
const plugin = () => join(root, "bin/istio-cni");
const chain = (...types: string[]) =>
  writeFileSync(
    join(root, "net/10-a.conflist"),
    JSON.stringify({ name: "a", plugins: types.map((type) => ({ type })) }),
  );

function make(change: { replaceIstioCni?: boolean; current?: "ambient-cni" | "istio-cni" } = {}) {
  return new LeftoverKeeper({
    hostRoot: join(root, "host"),
    runDir: join(root, "run"),
    netDir: join(root, "net"),
    binDir: join(root, "bin"),
    current: "ambient-cni",
    replaceIstioCni: true,
    log: silentLogger,
    clock,
    ...change,
  });
}

async function look(keeper: LeftoverKeeper, afterMs: number): Promise<[boolean, boolean]> {
  clock.advance(afterMs);
  await keeper.look();
  return [existsSync(kubeconfig()), existsSync(plugin())];
}

test("kubeconfig and plugin go together, when nobody can be calling the plugin any more", async () => {
  const keeper = make();
  chain("bridge", "ambient-cni");
  expect(await look(keeper, 0)).toEqual([true, true]);
  expect(await look(keeper, 7_999)).toEqual([true, true]);
  expect(await look(keeper, 1)).toEqual([false, false]);
});

test("a chain that names istio-cni again begins the wait anew", async () => {
  const keeper = make();
  chain("bridge", "ambient-cni");
  await look(keeper, 0);
  chain("bridge", "istio-cni");
  expect(await look(keeper, 9_000)).toEqual([true, true]);
  chain("bridge", "ambient-cni");
  expect(await look(keeper, 1_000)).toEqual([true, true]);
  expect(await look(keeper, 7_999)).toEqual([true, true]);
  expect(await look(keeper, 1)).toEqual([false, false]);
});

test("where the plugin of that name is ours, the kubeconfig goes after the same wait", async () => {
  const keeper = make({ current: "istio-cni" });
  chain("bridge", "istio-cni");
  expect(await look(keeper, 0)).toEqual([true, true]);
  expect(await look(keeper, 8_000)).toEqual([false, true]);
});

test("a chain that a link leads to on the host counts, and so does one that cannot be seen", async () => {
  const keeper = make();
  mkdirSync(join(root, "host/etc"));
  writeFileSync(
    join(root, "host/etc/a.conflist"),
    JSON.stringify({ name: "a", plugins: [{ type: "istio-cni" }] }),
  );
  symlinkSync("/etc/a.conflist", join(root, "net/10-a.conflist"));
  await look(keeper, 0);
  expect(await look(keeper, 60_000)).toEqual([true, true]);
  rmSync(join(root, "host/etc/a.conflist"));
  mkdirSync(join(root, "host/etc/a.conflist"));
  expect(await look(keeper, 60_000)).toEqual([true, true]);
});

test("an agent that is not to take istio-cni's place leaves both", async () => {
  const keeper = make({ replaceIstioCni: false });
  chain("bridge", "ambient-cni");
  await look(keeper, 0);
  expect(await look(keeper, 60_000)).toEqual([true, true]);
});
