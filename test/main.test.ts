// SPDX-License-Identifier: Apache-2.0
// The command line as its users meet it: the bundle, its exit codes and what it prints.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import manifest from "../package.json" with { type: "json" };

const bundle = join(import.meta.dirname, "../dist/ambient-cni.js");

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(
  args: readonly string[],
  env: Record<string, string> = {},
  wrapper: readonly string[] = [],
): Promise<Outcome> {
  const [file = "", ...rest] = [...wrapper, process.execPath, bundle, ...args];
  return new Promise((resolve) => {
    execFile(file, rest, { env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

test("version prints the package's version", async () => {
  expect(await run(["version"])).toEqual({
    code: 0,
    stdout: `ambient-cni ${manifest.version}\n`,
    stderr: "",
  });
});

test("rules prints what iptables-restore is given, and nothing else", async () => {
  const { code, stdout, stderr } = await run([
    "rules",
    "--family",
    "6",
    "--dns",
    "off",
    "--virtual-interface",
    "tap0",
  ]);
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout.startsWith("*mangle\n:ISTIO_PRERT - [0:0]\n")).toBe(true);
  expect(stdout).toContain("-A ISTIO_PRERT -i tap0 -p tcp -j REDIRECT --to-ports 15001\n");
  expect(stdout).not.toContain("*raw");
  expect(stdout.endsWith("COMMIT\n")).toBe(true);
});

test("rules prints istio's own text when connections from before are to be reset", async () => {
  const kept = await run(["rules"]);
  const reset = await run(["rules", "--established", "reset"]);
  const syn = " --tcp-flags FIN,SYN,RST,ACK SYN";
  expect(kept.stdout.split(syn)).toHaveLength(3);
  expect(reset.stdout).toBe(kept.stdout.replaceAll(syn, ""));
  expect((await run(["rules", "--established", "keep"])).stdout).toBe(kept.stdout);
});

test.each([["--help"], ["help"], ["agent", "--help"], ["rules", "--help"]])(
  "%s %s prints a usage",
  async (...args) => {
    const { code, stdout } = await run(args.filter((arg) => arg !== undefined));
    expect(code).toBe(0);
    expect(stdout).toContain("ambient-cni");
  },
);

test.each([
  ["no command", [], /a command is missing/],
  ["an unknown command", ["frob"], /unknown command "frob".*expected one of agent, version/],
  ["an unknown option", ["rules", "--frob"], /--frob/],
  ["a bad family", ["rules", "--family", "5"], /--family "5".*4 or 6/],
  ["a bad interface", ["rules", "--virtual-interface", "a b"], /--virtual-interface "a b"/],
  ["a bad switch", ["rules", "--dns", "maybe"], /--dns "maybe".*on or off/],
  ["a bad choice", ["rules", "--established", "drop"], /--established "drop".*keep or reset/],
])("%s ends with code 2 and one sentence", async (_name, args, message) => {
  const { code, stdout, stderr } = await run(args);
  expect([code, stdout]).toEqual([2, ""]);
  expect(stderr).toMatch(message);
  expect(stderr).not.toContain("    at ");
});

test("agent names every bad setting at once, without a stack", async () => {
  const { code, stderr } = await run(["agent", "--frob"], { AMBIENT_IPV6: "maybe", HEALTH_PORT: "-1" });
  expect(code).toBe(1);
  for (const name of ["NODE_NAME", "AMBIENT_IPV6", "HEALTH_PORT", "--frob"]) expect(stderr).toContain(name);
  expect(stderr).not.toContain("    at ");
});

describe.skipIf(process.getuid?.() !== 0)("agent, as root", () => {
  const ownPids = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
  let folder: string;
  let env: Record<string, string>;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "agent-start-"));
    env = {
      PATH: process.env.PATH ?? "",
      NODE_NAME: "node1",
      KUBECONFIG: join(folder, "missing"),
      CNI_AGENT_RUN_DIR: folder,
      HEALTH_PORT: "0",
      HOST_ROOT: "/",
      INSTALL_CNI_PLUGIN: "false",
      MONITORING_PORT: "0",
    };
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test("says what is wrong with its kubeconfig, without a stack", async () => {
    const { code, stderr } = await run(["agent"], env, ownPids);
    expect(code).toBe(1);
    expect(stderr).toContain(join(folder, "missing"));
    expect(stderr).not.toContain("    at ");
  });

  test("does not start when it cannot tell which namespace is the host's", async () => {
    const { code, stderr } = await run(["agent"], { ...env, HOST_ROOT: folder }, ownPids);
    expect(code).toBe(1);
    expect(stderr).toMatch(/Cannot tell the host's network namespace.*proc\/1\/ns\/net.*SYS_PTRACE/);
  });
});
