// SPDX-License-Identifier: Apache-2.0
// The same rules with the iptables of newer Debians, whose bytes differ from this machine's: what is replayed is what that
// iptables-restore makes, for all variants of options.
import { execFile } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import { ToolRunner } from "../../src/linux/run-tool.ts";
import type { Family } from "../../src/netfilter/family.ts";
import { chooseBackend } from "../../src/netfilter/variant.ts";
import type { PodRedirection } from "../../src/redirection/pod-redirection.ts";
import type { RedirectOptions } from "../../src/redirection/rules.ts";
import { renderRedirectText } from "../../src/redirection/told-redirection.ts";
import { redirection } from "./installed-backends.ts";
import { TestNetns, TOOL_PATH, withoutDates } from "./test-netns.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "./variants.ts";

interface Iptables {
  readonly suite: string;
  readonly root: string;
}

const execFileAsync = promisify(execFile);
const script = join(import.meta.dirname, "../../scripts/debian-root.sh");
const folder = mkdtempSync(join(tmpdir(), "ambient-iptables-"));
const suites = ["trixie", "sid"];
const found = (await Promise.all(suites.map(bring))).filter((each) => each !== undefined);

/** A root with the iptables of a Debian suite. @returns undefined where this machine has not the means to bring it */
async function bring(suite: string): Promise<Iptables | undefined> {
  try {
    const { stdout } = await execFileAsync("sh", [script, suite, "iptables", "netbase"]);
    return { suite, root: stdout.trim() };
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    if (code !== 3) throw error;
    process.stderr.write(`test/redirection/newer-iptables skips ${suite}: ${stderr}`);
    return undefined;
  }
}

/** A folder in which the variant's programs are those of the root, and the agent's other programs this machine's. */
async function redirectionWith({ suite, root }: Iptables): Promise<PodRedirection> {
  const path = join(folder, suite);
  await execFileAsync("mkdir", [path]);
  for (const name of [
    "iptables-nft-save",
    "iptables-nft-restore",
    "ip6tables-nft-save",
    "ip6tables-nft-restore",
  ]) {
    writeFileSync(join(path, name), `#!/bin/sh\nexec /usr/sbin/chroot "${root}" "/usr/sbin/${name}" "$@"\n`);
    chmodSync(join(path, name), 0o755);
  }
  const { stdout } = await execFileAsync("sh", ["-c", "command -v nsenter"], { env: { PATH: TOOL_PATH } });
  symlinkSync(stdout.trim(), join(path, "nsenter"));
  const runner = new ToolRunner({ path });
  return redirection(
    await chooseBackend({ variant: "nft", runDir: folder, hostProcess: "/proc/self", runner }),
  );
}

async function restored({ root }: Iptables, options: RedirectOptions): Promise<TestNetns> {
  const pod = await TestNetns.make();
  for (const family of FAMILIES)
    await pod.run(
      `chroot ${root} /usr/sbin/${program(family, "restore")} --noflush`,
      renderRedirectText(options, family),
    );
  return pod;
}

async function saved(pod: TestNetns, { root }: Iptables): Promise<string[]> {
  return await Promise.all(
    FAMILIES.map(async (family) =>
      withoutDates(await pod.run(`chroot ${root} /usr/sbin/${program(family, "save")}`)),
    ),
  );
}

function program(family: Family, tool: "save" | "restore"): string {
  return `${family === 4 ? "iptables" : "ip6tables"}-nft-${tool}`;
}

afterAll(() => rmSync(folder, { recursive: true }));

for (const suite of suites)
  if (!found.some((each) => each.suite === suite))
    test.skip(`the iptables of Debian ${suite} were not to be had on this machine`);

describe.each(found)("the iptables of Debian $suite", (iptables) => {
  let redirect: PodRedirection;

  test("is another one than this machine's", async () => {
    const versions = await Promise.all([
      execFileAsync("chroot", [iptables.root, "/usr/sbin/iptables-nft", "--version"]),
      execFileAsync("iptables-nft", ["--version"], { env: { PATH: TOOL_PATH } }),
    ]);
    expect(new Set(versions.map(({ stdout }) => stdout)).size).toBe(2);
    redirect = await redirectionWith(iptables);
  });

  test.each(Object.entries(VARIANTS))(
    "shows of a replayed pod what it makes itself: %s",
    async (_, options) => {
      using replayed = await TestNetns.make();
      using made = await restored(iptables, options);
      expect(await redirect.apply(replayed.netns, options, { isNew: true })).toMatchObject({
        changed: true,
        writes: 1,
      });
      const saves = await saved(replayed, iptables);
      expect(saves).toEqual(await saved(made, iptables));
      expect(saves.join("")).toContain("-A OUTPUT -j ISTIO_OUTPUT");
      // its own has our bytes: nothing but routes is missing
      expect(await redirect.apply(made.netns, options)).toMatchObject({ writes: 0 });
      expect((await redirect.verify(made.netns, options)).intact).toBe(true);
    },
  );

  test("takes over what this machine's wrote, with one write at most", async () => {
    using pod = await TestNetns.make();
    for (const family of FAMILIES)
      await pod.run(`${program(family, "restore")} --noflush`, renderRedirectText(DEFAULT_OPTIONS, family));
    expect((await redirect.apply(pod.netns, DEFAULT_OPTIONS)).writes).toBeLessThanOrEqual(1);
    expect((await redirect.verify(pod.netns, DEFAULT_OPTIONS)).intact).toBe(true);
    expect(await pod.save()).toContain("--to-ports 15001");
  });
});
