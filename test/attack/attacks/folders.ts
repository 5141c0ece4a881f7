// SPDX-License-Identifier: Apache-2.0
// Attacks on the folders that the agent writes and reads: chains that are none, links where it writes, mounts that never answer.
import { spawn } from "node:child_process";
import { link, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { cleanEnv, run } from "../../support/node/run.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { Attack, AttackGroup } from "../attack.ts";
import { endGroup, RUN_DIR, repeat } from "../scene.ts";

const netDir = "/run/node/cni/net.d";
const binDir = "/run/node/cni/bin";
const chain = join(netDir, "10-net.conflist");
const launcher = join(binDir, "ambient-cni");
const exemptList = join(binDir, "ambient-cni.exempt-namespaces");
const original = `${JSON.stringify({ cniVersion: "1.0.0", name: "net", plugins: [{ type: "bridge" }] })}\n`;
/** Where nothing of the agent's may ever arrive. */
const canaryDir = "/run/node/canary";
const canaryText = "nobody writes here";

async function isInChain(): Promise<boolean> {
  const { plugins } = JSON.parse(await readFile(chain, "utf8")) as { plugins: readonly { type: string }[] };
  return plugins.filter(({ type }) => type === "ambient-cni").length === 1;
}

/** Everything is as an agent leaves it that nobody disturbs. @returns after how many seconds */
async function installed(): Promise<number> {
  const startMs = performance.now();
  await waitFor("the entry in the chain", isInChain, { timeoutMs: 30_000, intervalMs: 50 });
  await waitFor("the launcher", async () => (await stat(launcher)).size > 1000, {
    timeoutMs: 15_000,
    intervalMs: 50,
  });
  return (performance.now() - startMs) / 1000;
}

/** A file in the chains' folder that sorts before the chain, for 2 s. */
function strangeFile(name: string, what: string, make: (path: string) => Promise<unknown>): Attack {
  return {
    name,
    what: `in the folder of chains: ${what}`,
    bound: "the chain keeps every byte of others; our entry is there 15 s after the end",
    run: async (_scene, atHeight) => {
      const path = join(netDir, "00-evil.conflist");
      try {
        await make(path);
        await atHeight();
      } finally {
        await rm(path, { recursive: true, force: true });
      }
      const seconds = await installed();
      const { name: network, plugins } = JSON.parse(await readFile(chain, "utf8")) as {
        name: string;
        plugins: readonly { type: string }[];
      };
      const isKept = network === "net" && plugins[0]?.type === "bridge";
      return {
        measured: `after ${seconds.toFixed(1)} s, others' ${isKept ? "kept" : "CHANGED"}`,
        ok: isKept && seconds < 15,
      };
    },
  };
}

/** What lies in the canary's folder; it changes when something was written through a link. */
async function canaryState(): Promise<string> {
  const names = await readdir(canaryDir);
  const states = names.sort().map(async (name) => {
    const { mode, size } = await stat(join(canaryDir, name));
    return `${name} ${mode.toString(8)} ${size}`;
  });
  return (await Promise.all(states)).join("; ");
}

async function makeCanaries(...names: readonly string[]): Promise<string> {
  await rm(canaryDir, { recursive: true, force: true });
  await mkdir(canaryDir, { mode: 0o700 });
  for (const name of names) await writeFile(join(canaryDir, name), canaryText, { mode: 0o600 });
  return await canaryState();
}

/** Puts links at names that the agent is going to write, as fast as it can. */
const racer = `
import os, sys, time
target, end = sys.argv[1], time.time() + 600
names = sys.argv[2:]
print("racing", flush=True)
while time.time() < end:
    for name in names:
        try: os.symlink(target, name)
        except FileExistsError: pass
        except OSError: pass
    time.sleep(0.0005)
`;

/** Makes a file system whose every question waits for ever; with the process it ends. */
const hungMount = `
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fd
if libc.mount(b"hung", sys.argv[1].encode(), b"fuse", 0, options) != 0: sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
time.sleep(600)
`;

async function started(argv: readonly string[], word: string): Promise<ReturnType<typeof spawn>> {
  const child = spawn(argv[0] as string, argv.slice(1), {
    env: cleanEnv(),
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let out = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (part) => {
      out += String(part);
    });
  await waitFor(`"${word}"`, () => out.includes(word), { timeoutMs: 5_000 }).catch((error: Error) => {
    throw new Error(`${error.message}: ${out}`);
  });
  return child;
}

function hung(name: string, folder: string): Attack {
  return {
    name,
    what: `a file system that never answers lies over ${folder}, for 7 s`,
    bound: "health answers within 1 s; installed again 20 s after the end",
    run: async (scene, atHeight) => {
      const holder = await started(["/usr/bin/env", "python3", "-c", hungMount, folder], "mounted");
      const times: number[] = [];
      try {
        await Promise.all([
          repeat(14, 500, async () => times.push(await scene.askMs(8000, "/healthz"))),
          delay(2_500).then(atHeight),
        ]);
      } finally {
        // its end wakes whoever waits
        await endGroup(holder);
        await run(["umount", "--lazy", folder]);
      }
      const seconds = await installed();
      const ms = Math.max(...times);
      return {
        measured: `health within ${Math.round(ms)} ms, installed after ${seconds.toFixed(1)} s`,
        ok: ms < 1_000 && seconds < 20,
      };
    },
  };
}

export const folderAttacks: AttackGroup = {
  name: "folders",
  env: { INSTALL_CNI_PLUGIN: "true", MOUNTED_CNI_NET_DIR: netDir, MOUNTED_CNI_BIN_DIR: binDir },
  prepare: async () => {
    for (const folder of [netDir, binDir]) await mkdir(folder, { recursive: true });
    await writeFile(chain, original);
  },
  attacks: [
    strangeFile("chain-fifo", "a FIFO", (path) => run(["mkfifo", path])),
    strangeFile("chain-endless", "a link to /dev/zero", (path) => symlink("/dev/zero", path)),
    strangeFile("chain-huge", "a file of 60 MB", (path) =>
      writeFile(path, `{"cniVersion":"${"9".repeat(60 << 20)}"}`),
    ),
    strangeFile("chain-deep", "250,000 brackets", (path) =>
      writeFile(path, `{"cniVersion":"1.0.0","name":"x","plugins":${"[".repeat(250_000)}`),
    ),
    strangeFile("chain-loop", "a link to itself", (path) => symlink(path, path)),
    {
      name: "chain-flood",
      what: "1,000 files in the folder of chains",
      bound: "our entry is in the chain 15 s after the end",
      run: async (_scene, atHeight) => {
        const names = Array.from({ length: 1_000 }, (_, index) => join(netDir, `50-${index}.conflist`));
        try {
          for (const name of names) await writeFile(name, original);
          await atHeight();
        } finally {
          for (const name of names) await rm(name, { force: true });
        }
        const seconds = await installed();
        return { measured: `after ${seconds.toFixed(1)} s`, ok: seconds < 15 };
      },
    },
    {
      name: "symlink-race",
      what: "links appear at every temporary name of the agent's, while the chain is damaged 3 times and the launcher 10 times",
      bound: "what they point to is untouched; installed 20 s after the end",
      run: async (scene, atHeight) => {
        const before = await makeCanaries("target");
        const { pid } = scene.agent;
        const names = [chain, launcher, exemptList, join(RUN_DIR, "x")].flatMap((path) => [
          `${path}.${pid}.tmp`,
          `${path}.tmp`,
        ]);
        const racing = await started(
          ["/usr/bin/env", "python3", "-c", racer, join(canaryDir, "target"), ...names],
          "racing",
        );
        try {
          const damage = repeat(10, 300, async (index) => {
            if (index % 4 === 0) await writeFile(chain, original);
            await rm(launcher, { force: true });
          });
          await Promise.all([damage, atHeight()]);
        } finally {
          await endGroup(racing);
          for (const name of names) await rm(name, { force: true });
        }
        const seconds = await installed();
        const isUntouched = (await canaryState()) === before;
        return {
          measured: `${isUntouched ? "untouched" : `TOUCHED: ${await canaryState()}`}, installed after ${seconds.toFixed(1)} s`,
          ok: isUntouched && seconds < 20,
        };
      },
    },
    {
      name: "hard-links",
      what: "chain, launcher and exempt list are hard links to files of others",
      bound: "those are untouched; installed 20 s after the end",
      run: async (_scene, atHeight) => {
        await makeCanaries("launcher", "list");
        await writeFile(join(canaryDir, "chain"), original, { mode: 0o600 });
        const before = await canaryState();
        for (const [name, path] of [
          ["chain", chain],
          ["launcher", launcher],
          ["list", exemptList],
        ] as const) {
          await link(join(canaryDir, name), `${path}.link`);
          await rename(`${path}.link`, path);
        }
        await atHeight();
        const seconds = await installed();
        const isUntouched = (await canaryState()) === before;
        return {
          measured: `${isUntouched ? "untouched" : `TOUCHED: ${await canaryState()}`}, installed after ${seconds.toFixed(1)} s`,
          ok: isUntouched && seconds < 20,
        };
      },
    },
    {
      name: "sandbox-folder-link",
      what: "the folder in which the agent keeps sandboxes becomes a link to a folder of others",
      bound: "nothing arrives there",
      run: async (scene, atHeight) => {
        const before = await makeCanaries("target");
        const folder = join(RUN_DIR, "sandboxes");
        await rename(folder, `${folder}.aside`);
        await symlink(canaryDir, folder);
        let after = "";
        try {
          await atHeight();
          // a pod that stays: what is written for it is not taken away again
          const pod = await scene.evilPod();
          after = await canaryState();
          await scene.remove(pod);
        } finally {
          await rm(folder, { recursive: true });
          await rename(`${folder}.aside`, folder);
        }
        return {
          measured: after === before ? "untouched" : `TOUCHED: ${after.slice(0, 200)}`,
          ok: after === before,
        };
      },
    },
    hung("hung-chains", netDir),
    hung("hung-plugins", binDir),
    {
      name: "chain-fight",
      what: "another program writes the chain without us, 40 times in 4 s",
      bound: "our entry is there 20 s after the end; readiness names it for a minute",
      staysUnready: true,
      run: async (_scene, atHeight) => {
        await Promise.all([repeat(40, 100, () => writeFile(chain, original)), atHeight()]);
        const seconds = await installed();
        return { measured: `after ${seconds.toFixed(1)} s`, ok: seconds < 20 };
      },
    },
  ],
};

/** Files that anybody but root could write. */
async function writableByOthers(folder: string): Promise<string[]> {
  const { stdout } = await run([
    "find",
    folder,
    "(",
    "-type",
    "f",
    "-o",
    "-type",
    "d",
    "-o",
    "-type",
    "s",
    ")",
    "-perm",
    "/022",
  ]);
  return stdout.split("\n").filter((line) => line !== "");
}

/** Its own: what an agent with another umask made does not count. */
const umaskDir = "/run/node/cni-umask";

export const umaskAttacks: AttackGroup = {
  name: "umask",
  env: {
    INSTALL_CNI_PLUGIN: "true",
    MOUNTED_CNI_NET_DIR: join(umaskDir, "net.d"),
    MOUNTED_CNI_BIN_DIR: join(umaskDir, "bin"),
  },
  wrapper: ["sh", "-c", 'umask 0; exec "$@"', "sh"],
  prepare: async () => {
    for (const name of ["net.d", "bin"]) await mkdir(join(umaskDir, name), { recursive: true });
    await writeFile(join(umaskDir, "net.d/10-net.conflist"), original);
  },
  attacks: [
    {
      name: "umask-0",
      what: "the agent is started with umask 0",
      bound: "nothing that it makes can be written by others",
      run: async (scene, atHeight) => {
        const entry = async (): Promise<boolean> =>
          (await readFile(join(umaskDir, "net.d/10-net.conflist"), "utf8")).includes("ambient-cni");
        await waitFor("the entry", entry, { timeoutMs: 15_000, intervalMs: 50 });
        const pod = await scene.evilPod();
        await atHeight();
        const found = (
          await Promise.all([RUN_DIR, umaskDir, "/var/run/ztunnel"].map(writableByOthers))
        ).flat();
        await scene.remove(pod);
        return {
          measured: found.length === 0 ? "none" : found.join(", ").slice(0, 200),
          ok: found.length === 0,
        };
      },
    },
  ],
};
