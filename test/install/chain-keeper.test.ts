// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { parseConf } from "../../src/conflist/conf.ts";
import type { PluginEntry } from "../../src/conflist/conflist-edit.ts";
import { type ChainFight, ChainKeeper, type ChainKeeperOptions } from "../../src/install/chain-keeper.ts";
import { removeFromChain } from "../../src/install/chain-removal.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { chainEntries, insertPlugin } from "../conflist/by-text.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { waitFor } from "../support/node/wait-for.ts";

const entry: PluginEntry = {
  type: "ambient-cni",
  cni_agent_run_dir: "/run/x",
  agent_wait_seconds: 10,
  exempt: [],
};
const original = `${JSON.stringify({ name: "net", plugins: [{ type: "bridge" }] }, null, 2)}\n`;
const isRoot = process.getuid?.() === 0;

// the kill tests start many processes
vi.setConfig({ testTimeout: 60_000 });

let dir: string;
let netDir: string;
let file: string;
const cleanups: (() => unknown)[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "chain-keeper-"));
  netDir = join(dir, "net.d");
  file = join(netDir, "10-a.conflist");
  mkdirSync(netDir);
  writeFileSync(file, original, { mode: 0o600 });
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  rmSync(dir, { recursive: true, force: true });
});

interface Watched {
  readonly keeper: ChainKeeper;
  readonly states: (string | undefined)[];
  readonly fights: ChainFight[];
  readonly repairs: () => number;
}

function watched(options: Partial<ChainKeeperOptions> = {}): Watched {
  const states: (string | undefined)[] = [];
  const fights: ChainFight[] = [];
  let repairs = 0;
  const keeper = new ChainKeeper({
    netDir,
    entry,
    log: silentLogger,
    onstate: (fault) => states.push(fault),
    onrepaired: () => repairs++,
    onfight: (fight) => fights.push(fight),
    // far away: what is tested are the events
    pollMs: 60_000,
    ...options,
  });
  cleanups.push(() => keeper.stop());
  return { keeper, states, fights, repairs: () => repairs };
}

const read = (path = file): string => readFileSync(path, "latin1");
const ours = (path = file): number => chainEntries(read(path)).ours;
const hasOurs = (path = file): Promise<true> =>
  waitFor("our entry", () => ours(path) === 1, { timeoutMs: 1000 });

/** Moves the clock in steps shorter than any pause of the keepers, and lets them look at what is due. */
async function pass(clock: FakeClock, ms: number, keepers = 1): Promise<void> {
  for (let passedMs = 0; passedMs < ms; passedMs += 10) {
    clock.advance(10);
    await waitFor("the looks to end", () => clock.pendingCount >= keepers);
  }
}

/** Moves the clock until something is so. */
function passUntil(clock: FakeClock, what: string, probe: () => boolean): Promise<true> {
  return waitFor(what, () => {
    clock.advance(10);
    return probe();
  });
}

/** The file events of a change have come: a look is due soon. */
function noticed(clock: FakeClock): Promise<true> {
  return waitFor("the change to be noticed", () => (clock.nextDueMs() ?? Infinity) - clock.nowMs() <= 30);
}

function replace(text: string, path = file): void {
  writeFileSync(`${path}.tmp`, text);
  renameSync(`${path}.tmp`, path);
}

async function leave(keeper: ChainKeeper, ownedFileName?: string): Promise<void> {
  await keeper.stop();
  await removeFromChain({ netDir, ...(ownedFileName === undefined ? {} : { ownedFileName }) });
}

function runModule(module: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [join(import.meta.dirname, module), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  cleanups.push(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  });
  return child;
}

describe("ChainKeeper", () => {
  it("installs at the start, keeps everything after stop, and gives the original bytes back on remove", async () => {
    const { keeper, states, repairs } = watched();
    await keeper.start();
    expect(read()).toBe(insertPlugin(original, entry));
    expect([keeper.configPath, keeper.fault, states, repairs()]).toEqual([file, undefined, [undefined], 1]);
    await keeper.stop();
    expect(ours()).toBe(1);
    const report = await removeFromChain({ netDir });
    expect(report).toEqual({ done: ['took our entry out of "10-a.conflist"'], notes: [] });
    expect(read()).toBe(original);
    expect(readdirSync(netDir)).toEqual(["10-a.conflist"]);
    expect(await removeFromChain({ netDir: join(dir, "none") })).toEqual({ done: [], notes: [] });
  });

  it("writes nothing when nothing has to change", async () => {
    writeFileSync(file, insertPlugin(original, entry));
    const before = statSync(file, { bigint: true });
    const { keeper, repairs } = watched();
    await keeper.start();
    writeFileSync(join(netDir, "other.conflist.tmp"), "");
    await keeper.start();
    const after = statSync(file, { bigint: true });
    expect([after.ino, after.mtimeNs, repairs()]).toEqual([before.ino, before.mtimeNs, 0]);
  });

  it.each<[string, () => void]>([
    ["renames a new one over it", () => replace(original)],
    ["writes it in place", () => writeFileSync(file, original)],
    [
      "removes it and writes it again",
      () => {
        rmSync(file);
        writeFileSync(file, original);
      },
    ],
    [
      "puts another one before it",
      () => {
        file = join(netDir, "05-b.conflist");
        writeFileSync(file, original);
      },
    ],
  ])("repairs within a second when another program %s", async (_what, rewrite) => {
    const { keeper, repairs } = watched();
    await keeper.start();
    rewrite();
    const from = performance.now();
    await hasOurs();
    expect(performance.now() - from).toBeLessThan(1000);
    await waitFor("the report", () => repairs() === 2);
    expect([keeper.rewrites, keeper.fights]).toEqual([1, 0]);
    expect(keeper.configPath).toBe(file);
  });

  it("a .conf becomes a list, once more after its owner wrote it anew, and is put back", async () => {
    rmSync(file);
    const conf = join(netDir, "10-a.conf");
    const text = (type: string): string => `{\n  "name": "net",\n  "type": "${type}"\n}\n`;
    writeFileSync(conf, text("bridge"), { mode: 0o640 });
    const { keeper } = watched();
    await keeper.start();
    expect(readdirSync(netDir).sort()).toEqual(["10-a.conf.ambient-cni-saved", "10-a.conflist"]);
    expect(statSync(file).mode & 0o777).toBe(0o640);
    replace(text("ptp"), conf);
    await waitFor("the new list", () => !existsSync(conf) && read().includes('"ptp"') && ours() === 1);
    await leave(keeper);
    expect(readdirSync(netDir)).toEqual(["10-a.conf"]);
    expect(read(conf)).toBe(text("ptp"));
  });

  it("leaves a half-written file alone until it is whole, and looks past it when it stays broken", async () => {
    const later = join(netDir, "20-b.conflist");
    writeFileSync(later, original);
    const clock = new FakeClock();
    const { keeper } = watched({ halfWrittenMs: 400, clock });
    await keeper.start();
    truncateSync(file, 0);
    await noticed(clock);
    await pass(clock, 150);
    expect([read(), ours(later)]).toEqual(["", 0]);
    writeFileSync(file, original.slice(0, 20));
    await pass(clock, 100);
    expect(ours(later)).toBe(0);
    writeFileSync(file, original);
    await passUntil(clock, "our entry", () => ours() === 1);
    expect(ours(later)).toBe(0);
    writeFileSync(file, "{");
    await noticed(clock);
    await pass(clock, 390);
    expect(ours(later)).toBe(0);
    await passUntil(clock, "the next file", () => ours(later) === 1);
    expect(read()).toBe("{");
  });

  it("waits with a reason while there is no configuration, or no folder, and notices both", async () => {
    rmSync(netDir, { recursive: true });
    const { keeper, states } = watched();
    await keeper.start();
    expect(keeper.fault).toContain("there is no such folder");
    mkdirSync(netDir);
    await waitFor("the folder to be seen", () => keeper.fault?.startsWith("Waiting for a CNI configuration"));
    replace(original);
    await hasOurs();
    await waitFor("readiness", () => states.at(-1) === undefined);
    rmSync(netDir, { recursive: true });
    await waitFor("the loss to be seen", () => keeper.fault?.includes("there is no such folder"));
    mkdirSync(netDir);
    writeFileSync(file, original);
    await hasOurs();
    expect(keeper.rewrites).toBeLessThanOrEqual(1);
  });

  it("a folder that vanishes is made again where nobody else has to write into it", async () => {
    const { keeper } = watched({ chained: false, confName: "istio-cni.conf" });
    await keeper.start();
    const own = join(netDir, "istio-cni.conf");
    rmSync(netDir, { recursive: true });
    await waitFor("our file", () => existsSync(own), { timeoutMs: 2000 });
    // a mount that was forgotten shows as one
    rmSync(dir, { recursive: true });
    await waitFor("the fault", () => keeper.fault?.includes("mount the node's CNI configuration folder"));
    expect(existsSync(netDir)).toBe(false);
  });

  it("knows before its first look whether an agent before it left our entry, and writes nothing for that", async () => {
    const { keeper } = watched();
    await keeper.recall();
    expect([keeper.wasThere, read()]).toEqual([false, original]);
    const left = insertPlugin(original, entry);
    writeFileSync(join(netDir, "90-b.conflist"), left);
    await keeper.recall();
    expect([keeper.wasThere, keeper.configPath, read()]).toEqual([true, undefined, original]);
  });

  it("has been in the chain once it was, whatever becomes of the folder", async () => {
    const { keeper } = watched();
    await keeper.start();
    expect(keeper.wasThere).toBe(true);
    rmSync(dir, { recursive: true });
    await waitFor("the fault", () => keeper.configPath === undefined);
    expect(keeper.wasThere).toBe(true);
    const { keeper: next } = watched();
    await next.recall();
    expect(next.wasThere).toBe(false);
  });

  it("our file among those of a list is put back at once, the list's own stay", async () => {
    writeFileSync(file, '{"cniVersion":"1.1.0","name":"net"}');
    mkdirSync(join(netDir, "net"));
    writeFileSync(join(netDir, "net/10-a.conf"), '{"type":"bridge"}');
    const { keeper, repairs } = watched();
    await keeper.start();
    const own = join(netDir, "net/zz-ambient-cni.conf");
    expect([keeper.configPath, keeper.pluginTypes]).toEqual([own, ["bridge"]]);
    rmSync(own);
    await waitFor("our file", () => existsSync(own), { timeoutMs: 2000 });
    await waitFor("the report", () => repairs() === 2);
    await leave(keeper);
    expect(readdirSync(join(netDir, "net"))).toEqual(["10-a.conf"]);
    expect(read()).toBe('{"cniVersion":"1.1.0","name":"net"}');
  });

  it("the network that is named to the runtime is the chain, although another file comes first", async () => {
    const named = join(netDir, "90-b.conflist");
    writeFileSync(named, original.replace('"net"', '"named"'));
    const { keeper } = watched({ runtimeNetwork: async () => ({ defaultNetwork: "named" }) });
    await keeper.start();
    expect([ours(), ours(named), keeper.configPath]).toEqual([0, 1, named]);
  });

  it("a folder that is replaced between two looks is watched anew", async () => {
    const { keeper } = watched();
    await keeper.start();
    renameSync(netDir, `${netDir}.old`);
    mkdirSync(netDir);
    writeFileSync(file, original);
    await waitFor("our entry in the new folder", () => ours() === 1, { timeoutMs: 2000 });
    replace(original);
    await hasOurs();
  });

  it.runIf(isRoot)("keeps mode and owner; a new file has 0600, or 0640 when the group may read", async () => {
    chownSync(file, 1234, 5678);
    chmodSync(file, 0o604);
    const { keeper } = watched();
    await keeper.start();
    const { uid, gid, mode } = statSync(file);
    expect([uid, gid, mode & 0o7777, ours()]).toEqual([1234, 5678, 0o604, 1]);
    await leave(keeper);
    expect(statSync(file)).toMatchObject({ uid: 1234, gid: 5678, mode });
    for (const [groupRead, expected] of [
      [false, 0o600],
      [true, 0o640],
    ] as const) {
      const fileName = `02-${expected}.conflist`;
      const own = watched({ owned: true, ownedFileName: fileName, groupRead });
      await own.keeper.start();
      expect(statSync(join(netDir, fileName)).mode & 0o7777).toBe(expected);
      await leave(own.keeper, fileName);
      expect(read()).toBe(original);
    }
  });

  it("an own file follows the primary, and goes when the primary stays away", async () => {
    const own = join(netDir, "02-istio-cni.conflist");
    const { keeper } = watched({ owned: true, ownedGraceMs: 300 });
    await keeper.start();
    expect(read()).toBe(original);
    const changed = original.replace("bridge", "ptp");
    replace(changed);
    await waitFor("the copy", () => read(own) === insertPlugin(changed, entry), { timeoutMs: 1000 });
    rmSync(file);
    await waitFor("the reason", () => keeper.fault?.startsWith("Waiting for"));
    expect(existsSync(own)).toBe(true);
    await waitFor("the end of the copy", () => !existsSync(own));
    writeFileSync(file, original);
    await hasOurs(own);
  });

  it("100 rewrites by another process leave exactly one entry, and the fight is slowed down and reported once", async () => {
    const { keeper, fights } = watched();
    await keeper.start();
    const writer = runModule("foreign-writer.ts", file, "100", "40");
    await once(writer, "exit");
    await waitFor("our entry", () => ours() === 1, { timeoutMs: 6000 });
    expect(JSON.parse(read())).toMatchObject({ plugins: [{ type: "x", number: 100 }, entry] });
    expect(fights).toHaveLength(1);
    expect(fights[0]).toMatchObject({ path: file, rewrites: 6 });
    expect(fights[0]?.remedy).toContain("ISTIO_OWNED_CNI_CONFIG");
    expect(keeper.fights).toBe(1);
    expect(keeper.isFighting).toBe(true);
    // 100 rewrites in 4 s, far fewer repairs
    expect(keeper.rewrites).toBeLessThan(15);
    expect(readdirSync(netDir)).toEqual(["10-a.conflist"]);
  });

  it("two keepers with different settings do not fight, and either repairs", async () => {
    const clock = new FakeClock();
    const older = watched({ clock });
    await older.keeper.start();
    const newer = watched({ entry: { ...entry, exempt: ["new"] }, clock });
    await newer.keeper.start();
    const settled = insertPlugin(original, { ...entry, exempt: ["new"] });
    expect(read()).toBe(settled);
    const { ino } = statSync(file);
    await noticed(clock);
    await pass(clock, 300, 2);
    expect([read(), statSync(file).ino]).toEqual([settled, ino]);
    for (let round = 0; round < 4; round++) {
      replace(original);
      await passUntil(clock, "our entry", () => ours() === 1);
    }
    await pass(clock, 100, 2);
    expect(ours()).toBe(1);
    expect([older.fights, newer.fights]).toEqual([[], []]);
    await older.keeper.stop();
    await newer.keeper.stop();
    await watched({ entry: { ...entry, exempt: ["newest"] } }).keeper.start();
    expect(read()).toBe(insertPlugin(original, { ...entry, exempt: ["newest"] }));
  });

  it("settings that nobody else comes to defend are mended after a while", async () => {
    const { keeper } = watched({ settingsGraceMs: 200 });
    await keeper.start();
    replace(insertPlugin(original, { ...entry, agent_wait_seconds: 99 }));
    await waitFor("our settings", () => read() === insertPlugin(original, entry), { timeoutMs: 2000 });
    expect(keeper.rewrites).toBe(0);
  });

  it.each([
    ["into the list", {}, "10-a.conflist"],
    ["by wrapping", {}, "10-a.conf"],
    ["as an own file", { owned: true }, "10-a.conf"],
  ])(
    "killed at random moments while it installs %s, the folder is old or new, never broken",
    async (_what, options, name) => {
      const source = name.endsWith(".conf") ? '{"name":"net","type":"bridge"}' : original;
      for (let round = 0; round < 6; round++) {
        rmSync(netDir, { recursive: true });
        mkdirSync(netDir);
        writeFileSync(join(netDir, name), source);
        const child = runModule("keeper-process.ts", netDir, JSON.stringify({ ...options, pollMs: 5 }));
        await once(child.stdout as NodeJS.ReadableStream, "data");
        let waitMs = round * 3;
        if (round % 2 === 1) {
          // in the middle of a repair instead of the first install; the keeper begins it after about 30 ms
          const installed = join(netDir, "owned" in options ? "02-istio-cni.conflist" : "10-a.conflist");
          await waitFor("the install", () => ours(installed) === 1);
          if ("owned" in options) rmSync(installed);
          else replace(source, join(netDir, name));
          waitMs += 25;
        }
        const stop = performance.now() + waitMs;
        // busy: a timer is too coarse for moments within one install
        while (performance.now() < stop);
        child.kill("SIGKILL");
        await once(child, "exit");
        const confs = readdirSync(netDir).filter((file) => /\.(conf|conflist|json)$/.test(file));
        expect(confs.length).toBeGreaterThan(0);
        for (const conf of confs) expect(() => parseConf(conf, read(join(netDir, conf)))).not.toThrow();
        const { keeper } = watched(options);
        await keeper.start();
        expect(keeper.fault).toBeUndefined();
        expect(readdirSync(netDir).filter((file) => file.includes("-tmp-"))).toEqual([]);
        expect(ours(keeper.configPath)).toBe(1);
        await leave(keeper);
        expect(readdirSync(netDir)).toEqual([name]);
        expect(read(join(netDir, name))).toBe(source);
      }
    },
  );

  it("what a killed run was writing is cleared at the next start", async () => {
    writeFileSync(join(netDir, ".10-a.conflist.ambient-cni-tmp-0123456789ab"), "{");
    writeFileSync(join(netDir, ".foreign.tmp"), "");
    await watched().keeper.start();
    expect(readdirSync(netDir).sort()).toEqual([".foreign.tmp", "10-a.conflist"]);
  });

  it.runIf(isRoot)("a read-only folder and a full disk are faults with a remedy, and retried", async () => {
    // own mount namespace: nothing of it is left when the process ends
    const script = (mount: string): string =>
      `set -e; mount --make-rprivate /; ${mount}; exec "$0" "$1" "$2"`;
    const faultOf = async (mount: string): Promise<string> => {
      const child = spawn(
        "unshare",
        [
          "-m",
          "sh",
          "-c",
          script(mount),
          process.execPath,
          join(import.meta.dirname, "keeper-process.ts"),
          netDir,
        ],
        { stdio: ["ignore", "pipe", "inherit"] },
      );
      cleanups.push(() => child.kill("SIGKILL"));
      let output = "";
      child.stdout.on("data", (data: Buffer) => {
        output += data.toString();
      });
      const line = await waitFor("a state", () => output.split("\n").find((part) => part.includes("fault")), {
        timeoutMs: 10_000,
      });
      expect(child.exitCode).toBeNull();
      child.kill("SIGKILL");
      await once(child, "exit");
      return line;
    };
    expect(await faultOf(`mount --bind ${netDir} ${netDir}; mount -o remount,ro,bind ${netDir}`)).toContain(
      "without readOnly",
    );
    // what a container has mounted stays after the node has removed it
    const removed = `mkdir ${dir}/live; mount --bind ${dir}/live ${netDir}; rmdir ${dir}/live`;
    expect(await faultOf(removed)).toContain("delete this pod");
    const fill = `cp ${file} ${dir}/c; mount -t tmpfs -o size=8k x ${netDir}; cp ${dir}/c ${file}; head -c 8000 /dev/zero 2> /dev/null > ${netDir}/fill || true`;
    expect(await faultOf(fill)).toContain("disk is full");
    expect(read()).toBe(original);
    expect(read("/proc/self/mounts")).not.toContain(dir);
  });

  it("does not stop or throw when the folder is a file", async () => {
    rmSync(netDir, { recursive: true });
    writeFileSync(netDir, "");
    const { keeper } = watched();
    await keeper.start();
    expect(keeper.fault).toContain("MOUNTED_CNI_NET_DIR");
    await expect(leave(keeper)).rejects.toThrow("MOUNTED_CNI_NET_DIR");
  });
});
