// SPDX-License-Identifier: Apache-2.0
// The image as it is built, its programs run inside it: nothing of this machine's may be missing in it.
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { agentEntries, imageEnvironment, systemEntries } from "../../scripts/image-content.ts";
import { writeTar } from "../../scripts/image-tar.ts";
import { type RunResult, run } from "../support/node/run.ts";

/** What is asked of the bill of materials. */
interface Sbom {
  readonly metadata: { readonly component: { readonly purl: string } };
  readonly components: readonly {
    readonly name: string;
    readonly version: string;
    readonly purl: string;
    readonly hashes?: readonly unknown[];
  }[];
}

const project = join(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "image-"));
const rootfs = join(folder, "rootfs");

beforeAll(async () => {
  // what is built elsewhere is as good: the means are those of every other test
  const argv = [process.execPath, join(project, "scripts/build-image.ts"), "--rootfs", rootfs];
  await run(argv, { timeoutMs: 120_000 });
}, 130_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a program of the image in namespaces of its own, with the image as its whole world. */
function inside(
  argv: readonly string[],
  { stdin = "", timeoutMs = 30_000 }: { stdin?: string; timeoutMs?: number } = {},
): Promise<RunResult> {
  const world = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", `--root=${rootfs}`];
  return run([...world, "--", ...argv], { stdin, env: imageEnvironment, mayFail: true, timeoutMs });
}

describe("the image", () => {
  const { version } = JSON.parse(readFileSync(join(project, "package.json"), "utf8"));

  test.each([
    ["node", ["node", "--version"], process.version],
    ["the agent's commands", ["ambient-cni", "version"], `ambient-cni ${version}`],
    ["istio-cni's name for the agent", ["install-cni", "--help"], "usage: ambient-cni agent"],
    ["istio-cni's version command", ["install-cni", "version"], `ambient-cni ${version}`],
    ["nft", ["nft", "--version"], "nftables v"],
    ["ipset", ["ipset", "--version"], "ipset v"],
    ["nsenter", ["nsenter", "--version"], "util-linux"],
    ["plain iptables", ["iptables", "--version"], "(nf_tables)"],
    ...["iptables", "ip6tables"].flatMap((family) =>
      ["", "-save", "-restore"].flatMap((tool): [string, string[], string][] => [
        [`${family}-nft${tool}`, [`${family}-nft${tool}`, "--version"], "(nf_tables)"],
        [`${family}-legacy${tool}`, [`${family}-legacy${tool}`, "--version"], "(legacy)"],
      ]),
    ),
  ])("runs %s", async (_, argv, expected) => {
    const { stdout, stderr, code } = await inside(argv);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(expected);
  });

  test("is up, and says what is missing, without a node's name", async () => {
    const { stdout, code } = await inside(["install-cni", "--log_output_level=info"], { timeoutMs: 5_000 });
    // killed in the end
    expect(code).toBe(137);
    expect(stdout).toContain('NODE_NAME=\\"\\" is missing');
  });

  test("holds an agent whose source takes a byte a character in memory", () => {
    const source = readFileSync(join(rootfs, "usr/local/lib/ambient-cni/ambient-cni.js"));
    expect(source.length).toBeGreaterThan(1_000_000);
    expect(source.findIndex((byte) => byte > 0x7f)).toBe(-1);
  });

  test("holds a launcher that needs nothing and answers in the words of the CNI specification", async () => {
    const { stdout, code } = await inside(["/usr/local/lib/ambient-cni/ambient-cni"]);
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ code: 4 });
  });

  test.each(["nft", "legacy"])(
    "has every match and target of a pod's rules for iptables-%s",
    async (variant) => {
      for (const family of ["4", "6"]) {
        const { stdout: rules } = await inside(["ambient-cni", "rules", "--family", family]);
        expect(rules).toContain("ISTIO_OUTPUT");
        const restore = `${family === "4" ? "iptables" : "ip6tables"}-${variant}-restore`;
        // read only by the parser, which loads the modules; whether this kernel has the tables is another matter
        const { stderr, code } = await inside([restore, "--test"], { stdin: rules });
        if (code !== 0) expect(stderr).toContain("can't initialize");
        expect(stderr).not.toMatch(/couldn't load|unknown option/i);
      }
    },
  );

  test("has the match that lets kubelet probes past ztunnel", async () => {
    const { stdout } = await inside([
      "iptables-nft",
      "-m",
      "set",
      "-m",
      "owner",
      "-m",
      "cgroup",
      "-j",
      "SNAT",
      "--help",
    ]);
    for (const part of ["--match-set", "--socket-exists", "--path", "--to-source"])
      expect(stdout).toContain(part);
  });

  test.each(["bin/sh", "usr/bin/env", "usr/bin/apt", "usr/bin/dpkg", "usr/bin/perl"])(
    "does without %s",
    (path) => {
      expect(existsSync(join(rootfs, path))).toBe(false);
    },
  );

  test("carries the licences of what is in it, and descriptions that scanners read", () => {
    for (const name of ["iptables", "libc6", "nftables", "ipset", "util-linux", "libstdc++6"]) {
      expect(existsSync(join(rootfs, "var/lib/dpkg/status.d", name)), name).toBe(true);
    }
    for (const path of [
      "iptables/copyright",
      "libc6/copyright",
      "ambient-cni/copyright",
      "ambient-cni/bundled/pino",
    ]) {
      expect(existsSync(join(rootfs, "usr/share/doc", path)), path).toBe(true);
    }
  });

  test("says what it is made of: each package that it describes, all that the bundle holds code of, Node, and what is linked in", () => {
    const sbom = JSON.parse(
      readFileSync(join(rootfs, "usr/share/sbom/ambient-cni.cdx.json"), "utf8"),
    ) as Sbom;
    expect(sbom).toMatchObject({ bomFormat: "CycloneDX", specVersion: "1.6", version: 1 });
    const named = (type: string) =>
      sbom.components.filter(({ purl }) => purl.startsWith(`pkg:${type}/`)).map(({ name }) => name);
    const linked = named("deb").filter((name) => /^(?:musl|libc6)-dev$/.test(name));
    expect(linked).toHaveLength(1);
    expect(named("deb").filter((name) => name !== linked[0])).toEqual(
      readdirSync(join(rootfs, "var/lib/dpkg/status.d")).sort(),
    );
    // esbuild names each file above its code
    const bundle = readFileSync(join(rootfs, "usr/local/lib/ambient-cni/ambient-cni.js"), "utf8");
    const inBundle = bundle.matchAll(/^\s*\/\/ node_modules\/((?:@[^/\n]+\/)?[^/\n]+)\//gm);
    expect(named("npm").sort()).toEqual(
      [...new Set(["node", ...Array.from(inBundle, ([, name]) => name)])].sort(),
    );
    for (const { name, version, hashes } of sbom.components.filter(({ purl }) =>
      purl.startsWith("pkg:npm/"),
    )) {
      expect(version, name).toMatch(/^\d/);
      expect(hashes?.[0], name).toEqual({
        alg: "SHA-512",
        content: expect.stringMatching(/^[0-9a-f]{128}$/),
      });
    }
    expect(sbom.components.find(({ name }) => name === "node")?.version).toBe(process.version.slice(1));
  });

  test("fits into an archive of less than 200 MB", async () => {
    const argv = [process.execPath, join(project, "scripts/build-image.ts"), "--json"];
    const { stdout } = await run([...argv, "--output", join(folder, "image.tar")], { timeoutMs: 120_000 });
    const image = JSON.parse(stdout);
    expect(image).toMatchObject({ tag: `localhost/ambient-cni:${version}` });
    const { metadata } = JSON.parse(readFileSync(join(folder, "image.tar.cdx.json"), "utf8")) as Sbom;
    expect(decodeURIComponent(metadata.component.purl)).toBe(`pkg:oci/ambient-cni@${image.digest}`);
    expect(image.compressedBytes).toBeLessThan(200e6);
    expect(statSync(join(folder, "image.tar")).size).toBeGreaterThan(image.compressedBytes);
  }, 130_000);

  test("has the same content each time it is put together", () => {
    const digest = () => {
      const tar = writeTar([...systemEntries(project), ...agentEntries(project)], { mtimeSeconds: 0 });
      return createHash("sha256").update(tar).digest("hex");
    };
    expect(digest()).toBe(digest());
  }, 60_000);
});

describe("deploy/Dockerfile", () => {
  const dockerfile = readFileSync(join(project, "deploy/Dockerfile"), "utf8");

  test("copies into its build stage what the build reads", () => {
    const ignored = readFileSync(join(project, "deploy/Dockerfile.dockerignore"), "utf8").split("\n");
    const sources = [...dockerfile.matchAll(/^COPY (?!--from)(.*) \S+$/gm)].flatMap(([, names]) =>
      names!.split(" "),
    );
    expect(sources).toEqual(
      expect.arrayContaining(["plugin", "native", "src", "scripts", "deploy/image", "LICENSE"]),
    );
    for (const source of sources) {
      expect(existsSync(join(project, source)), source).toBe(true);
      expect(ignored).toContain(`!${source}`);
    }
  });

  test("starts the agent as the archive does", () => {
    expect(dockerfile).toContain('ENTRYPOINT ["ambient-cni", "agent"]');
    const variables = [...dockerfile.matchAll(/^ENV (\w+)=(.*)$/gm)].map(([, name, value]) => [name, value]);
    expect(Object.fromEntries(variables)).toEqual(imageEnvironment);
  });
});
