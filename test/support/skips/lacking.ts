// SPDX-License-Identifier: Apache-2.0
// Says which means this machine lacks, for ALLOW_LACKING: each is asked as its suite asks, and brought where it can be. What is not
// named is there, and a test that needs it may not be skipped.
// usage: lacking.ts [MEANS...]   (default: all, which can take minutes where a Kubernetes has to be built)
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { whatCriLacks } from "../../cri/support/cri-means.ts";
import { hasNri } from "../../cri/support/nri-means.ts";
import { noBrowser } from "../../dashboard/visitor.ts";
import type { Means } from "./means.ts";

const root = join(import.meta.dirname, "../../..");

/** Why something is not there; undefined: it is. */
type Lack = string | undefined;

/** What a build says can be long, and is not to end it. */
const mostSaid = 256 * 1024 * 1024;

function script(name: string, ...args: readonly string[]): Lack {
  const { status, stderr } = spawnSync("sh", [join(root, "scripts", name), ...args], {
    encoding: "utf8",
    stdio: ["ignore", "ignore", "pipe"],
    maxBuffer: mostSaid,
  });
  return status === 0 ? undefined : (stderr.trim().split("\n").at(-1) ?? `${name} failed`);
}

function file(...paths: readonly string[]): Lack {
  return paths.some((path) => existsSync(path)) ? undefined : `no ${paths.join(", no ")}`;
}

function program(name: string): Lack {
  const { status } = spawnSync("sh", ["-c", `command -v ${name}`]);
  return status === 0 ? undefined : `no ${name}`;
}

const questions: Readonly<Record<Means, () => Lack | Promise<Lack>>> = {
  root: () => (process.getuid?.() === 0 ? undefined : "not root"),
  valgrind: () => file("/usr/bin/valgrind"),
  "musl-gcc": () => program("musl-gcc"),
  "systemd-tmpfiles": () => file("/usr/bin/systemd-tmpfiles", "/bin/systemd-tmpfiles"),
  openssl: () => program("openssl"),
  helm: () => script("helm.sh"),
  debian: () =>
    script("debian-root.sh", "trixie", "iptables", "netbase") ??
    script("debian-root.sh", "sid", "iptables", "netbase"),
  containerd: () => whatCriLacks(),
  nri: async () => ((await hasNri()) ? undefined : "this machine's containerd is older than 2"),
  kubernetes: () => script("cluster-setup.sh"),
  chromium: () => noBrowser,
};

const asked = process.argv.slice(2);
const lacking: string[] = [];
for (const [means, ask] of Object.entries(questions)) {
  if (asked.length > 0 && !asked.includes(means)) continue;
  const lack = await ask();
  if (lack === undefined) continue;
  lacking.push(means);
  process.stderr.write(`this machine lacks ${means}: ${lack}\n`);
}
process.stdout.write(`${lacking.join(",")}\n`);
