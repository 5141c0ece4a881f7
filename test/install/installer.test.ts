// SPDX-License-Identifier: Apache-2.0
// The launcher and the entry that calls it: in which order they come, and what happens when the launcher is taken away.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { loadConfig } from "../../src/config.ts";
import { Installer } from "../../src/install/installer.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { waitFor } from "../support/node/wait-for.ts";

let folder: string;
let binDir: string;
let chain: string;
let clock: FakeClock;
let installer: Installer;
let states: (string | undefined)[];
let peaces: number;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-installer-"));
  binDir = join(folder, "bin");
  const netDir = join(folder, "net.d");
  chain = join(netDir, "10-a.conflist");
  mkdirSync(netDir);
  writeFileSync(chain, JSON.stringify({ cniVersion: "1.0.0", name: "a", plugins: [{ type: "bridge" }] }));
  clock = new FakeClock();
  states = [];
  peaces = 0;
  const { install } = loadConfig({ env: { NODE_NAME: "n" }, args: [] });
  installer = new Installer({
    config: { ...install, netDir, binDir },
    runDir: folder,
    entry: { type: "ambient-cni", cni_agent_run_dir: folder, agent_wait_seconds: 10, exempt: [] },
    replaceIstioCni: false,
    hostRoot: folder,
    log: silentLogger,
    onstate: (fault) => states.push(fault),
    onrepaired() {},
    onfight() {},
    onpeace: () => peaces++,
    source: join(import.meta.dirname, "../../plugin/build/ambient-cni"),
    clock,
  });
});
afterEach(async () => {
  await installer.stop();
  rmSync(folder, { recursive: true, force: true });
});

const launcher = (): string => join(binDir, "ambient-cni");
const isInChain = (): boolean => readFileSync(chain, "utf8").includes('"ambient-cni"');

/** The next look at the launcher, from its beginning to its end. */
async function look(): Promise<void> {
  clock.advance(5_000);
  await waitFor("the look to end", () => clock.pendingCount === 1);
}

test("the entry comes when its launcher is in place, and not before", async () => {
  await installer.start();
  expect([isInChain(), states.at(-1)]).toEqual([false, expect.stringContaining("there is no such folder")]);
  await look();
  expect(isInChain()).toBe(false);
  mkdirSync(binDir);
  await look();
  expect([existsSync(launcher()), isInChain(), states.at(-1)]).toEqual([true, true, undefined]);
});

test("a launcher that was removed is back after 5 s, the entry stays, and peace is told with each look", async () => {
  mkdirSync(binDir);
  await installer.start();
  const before = peaces;
  rmSync(launcher());
  clock.advance(4_999);
  expect(existsSync(launcher())).toBe(false);
  clock.advance(1);
  await waitFor("the launcher", () => existsSync(launcher()) && clock.pendingCount === 1);
  expect([isInChain(), peaces]).toEqual([true, before + 1]);
});

test("nothing is put back after the stop", async () => {
  mkdirSync(binDir);
  await installer.start();
  await installer.stop();
  rmSync(launcher());
  clock.advance(60_000);
  expect([existsSync(launcher()), clock.pendingCount, isInChain()]).toEqual([false, 0, true]);
});
