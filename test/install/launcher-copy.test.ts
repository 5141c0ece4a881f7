// SPDX-License-Identifier: Apache-2.0
// The launcher's way into the runtime's folder, on file systems that take it and on those that do not.
import { execFile, spawn } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { fileMark, installLauncher, removeLauncher } from "../../src/install/launcher-copy.ts";
import { waitFor } from "../support/node/wait-for.ts";

const execFileAsync = promisify(execFile);
const source = join(import.meta.dirname, "../../plugin/build/ambient-cni");
const child = join(import.meta.dirname, "launcher-process.ts");
let folder: string;
let binDir: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-launcher-"));
  binDir = join(folder, "bin");
  mkdirSync(binDir);
});
afterEach(() => rmSync(folder, { recursive: true }));

function withFolder(): string {
  mkdirSync(launcher());
  return binDir;
}

const launcher = () => join(binDir, "ambient-cni");

test("the launcher is copied whole and executable, and nothing is written when it is there", async () => {
  expect(await installLauncher({ source, binDir })).toBe("installed");
  expect(readdirSync(binDir)).toEqual(["ambient-cni"]);
  expect(readFileSync(launcher()).equals(readFileSync(source))).toBe(true);
  expect(statSync(launcher()).mode & 0o7777).toBe(0o755);
  const before = statSync(launcher(), { bigint: true });
  expect(await installLauncher({ source, binDir })).toBe("unchanged");
  const after = statSync(launcher(), { bigint: true });
  expect([after.ino, after.ctimeNs]).toEqual([before.ino, before.ctimeNs]);
});

test.each<[string, () => void]>([
  ["another version", () => writeFileSync(launcher(), "old", { mode: 0o755 })],
  [
    "the same without the right to execute",
    () => writeFileSync(launcher(), readFileSync(source), { mode: 0o644 }),
  ],
  ["half of it", () => writeFileSync(launcher(), readFileSync(source).subarray(0, 1000), { mode: 0o755 })],
  ["a link to nothing", () => symlinkSync("nowhere", launcher())],
])("%s is replaced", async (_, make) => {
  make();
  expect(await installLauncher({ source, binDir })).toBe("installed");
  expect(readFileSync(launcher()).equals(readFileSync(source))).toBe(true);
  expect(statSync(launcher()).mode & 0o777).toBe(0o755);
});

test("a launcher that runs at this moment goes on, and the new one is in place", async () => {
  writeFileSync(launcher(), readFileSync("/bin/sleep"), { mode: 0o755 });
  const running = spawn(launcher(), ["30"]);
  const ended = new Promise((resolve) => running.once("exit", (_, signal) => resolve(signal)));
  try {
    await waitFor("the old one to run", () =>
      readFileSync(`/proc/${running.pid}/cmdline`, "utf8").startsWith(launcher()),
    );
    expect(() => writeFileSync(launcher(), "in place")).toThrow(/ETXTBSY/);
    expect(await installLauncher({ source, binDir })).toBe("installed");
    expect(running.exitCode).toBeNull();
  } finally {
    running.kill("SIGKILL");
  }
  expect(await ended).toBe("SIGKILL");
});

test("what others have in the folder stays, what an earlier installer left half done goes", async () => {
  const others = [
    "bridge",
    "istio-cni",
    ".ambient-cni.conf",
    "ambient-cni.old",
    ".ambient-cni.0123456789ab.txt",
  ];
  for (const name of others) writeFileSync(join(binDir, name), name);
  writeFileSync(join(binDir, ".ambient-cni.0123456789ab"), "half");
  await installLauncher({ source, binDir });
  expect(readdirSync(binDir).sort()).toEqual([...others, "ambient-cni"].sort());
});

test("its mark changes with every way of changing it, and only then", async () => {
  expect(await fileMark(launcher())).toBeUndefined();
  await installLauncher({ source, binDir });
  const mark = await fileMark(launcher());
  expect(mark).toBeDefined();
  expect(await fileMark(launcher())).toBe(mark);
  chmodSync(launcher(), 0o644);
  expect(await fileMark(launcher())).not.toBe(mark);
  rmSync(launcher());
  await installLauncher({ source, binDir });
  expect(await fileMark(launcher())).not.toBe(mark);
});

test("two installers at once end with the launcher and nothing else", async () => {
  for (let round = 0; round < 10; round++) {
    rmSync(launcher(), { force: true });
    const results = await Promise.all([1, 2, 3].map(() => installLauncher({ source, binDir })));
    expect(results).toContain("installed");
    expect(readdirSync(binDir)).toEqual(["ambient-cni"]);
  }
});

test("killed at any moment, the launcher is whole or absent, and the next run finishes", async () => {
  const script = `import { installLauncher } from "${join(import.meta.dirname, "../../src/install/launcher-copy.ts")}";
    process.stdout.write("ready");
    for (;;) { (await import("node:fs")).rmSync(${JSON.stringify(launcher())}, { force: true });
      await installLauncher({ source: ${JSON.stringify(source)}, binDir: ${JSON.stringify(binDir)} }); }`;
  writeFileSync(join(folder, "loop.ts"), script);
  let halves = 0;
  for (let round = 0; round < 12; round++) {
    const running = spawn(process.execPath, [join(folder, "loop.ts")], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    await new Promise((resolve) => running.stdout.once("data", resolve));
    // not a wait for anything: another moment each time
    await new Promise((resolve) => setTimeout(resolve, 3 * round));
    const ended = new Promise((resolve) => running.once("exit", resolve));
    running.kill("SIGKILL");
    await ended;
    const names = readdirSync(binDir);
    halves += names.filter((name) => name.startsWith(".ambient-cni.")).length;
    if (names.includes("ambient-cni"))
      expect(readFileSync(launcher()).equals(readFileSync(source))).toBe(true);
    await installLauncher({ source, binDir });
    expect(readdirSync(binDir)).toEqual(["ambient-cni"]);
  }
  // else no run was hit between the first byte and the rename, and nothing was tested
  expect(halves).toBeGreaterThan(0);
});

describe("a folder that does not take it", () => {
  test.each<[string, () => { source?: string; binDir?: string }, RegExp]>([
    ["is missing", () => ({ binDir: join(folder, "none") }), /no such folder.*cniBinDir/],
    ["is a file", () => ({ binDir: source }), /it is no folder: check MOUNTED_CNI_BIN_DIR/],
    ["has a folder of that name", () => ({ binDir: withFolder() }), /ambient-cni".*EISDIR/],
  ])("is told with the remedy when it %s", async (_, make, message) => {
    await expect(installLauncher({ source, binDir, ...make() })).rejects.toThrow(message);
  });

  test("a launcher that is not in the image is told as such", async () => {
    await expect(installLauncher({ source: join(folder, "none"), binDir })).rejects.toThrow(
      /none" cannot be read/,
    );
  });

  test("a launcher for another machine does not get into place", async () => {
    const foreign = join(folder, "foreign");
    writeFileSync(foreign, "\x7fELF not for us");
    await expect(installLauncher({ source: foreign, binDir })).rejects.toThrow(/does not start/);
    expect(readdirSync(binDir)).toEqual([]);
  });

  // in mount namespaces of their own: they end with the process
  test.each<[string, string, RegExp]>([
    ["full", "mount -t tmpfs -o size=16k none BIN", /disk is full/],
    ["read-only", "mount --bind BIN BIN && mount -o remount,bind,ro BIN", /read-only file system.*cniBinDir/],
    ["mounted noexec", "mount -t tmpfs -o noexec none BIN", /does not start.*noexec/],
  ])("is told with the remedy when it is %s, and nothing is left there", async (_, mount, message) => {
    const script = `${mount.replaceAll("BIN", binDir)} && exec "${process.execPath}" "${child}" "${source}" "${binDir}"`;
    const { stdout } = await execFileAsync("unshare", ["-m", "--propagation", "private", "sh", "-c", script]);
    const { error, names } = JSON.parse(stdout) as { error: string; names: string[] };
    expect(error).toMatch(message);
    expect(names).toEqual([]);
  });
});

test("removing takes the launcher and halves of it, and nothing else", async () => {
  await installLauncher({ source, binDir });
  writeFileSync(join(binDir, ".ambient-cni.0123456789ab"), "half");
  writeFileSync(join(binDir, "bridge"), "");
  expect(await removeLauncher(binDir)).toBe(true);
  expect(readdirSync(binDir)).toEqual(["bridge"]);
  expect(await removeLauncher(binDir)).toBe(false);
  expect(await removeLauncher(join(folder, "none"))).toBe(false);
});
