// SPDX-License-Identifier: Apache-2.0
// The command line as its users meet it: the bundle, its exit codes and what it prints.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
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

test.each([
  ["agent", "version"],
  ["agent", "--log_as_json", "version", "--short"],
  ["agent", "--log_output_level", "debug", "version"],
])("%s %s prints the version, as install-cni does", async (...args) => {
  expect((await run(args.filter((arg) => arg !== undefined))).stdout).toBe(
    `ambient-cni ${manifest.version}\n`,
  );
});

describe.skipIf(process.getuid?.() !== 0)("agent, as root", () => {
  const ownPids = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
  let folder: string;
  let env: Record<string, string>;
  let child: ChildProcess | undefined;

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "agent-start-"));
    env = {
      PATH: process.env.PATH ?? "",
      NODE_NAME: "node1",
      KUBECONFIG: join(folder, "missing"),
      CNI_AGENT_RUN_DIR: folder,
      HEALTH_PORT: String(await freePort()),
      HOST_ROOT: "/",
      INSTALL_CNI_PLUGIN: "false",
      MONITORING_PORT: "0",
    };
  });
  afterEach(async () => {
    if (child !== undefined) {
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    }
    child = undefined;
    rmSync(folder, { recursive: true });
  });

  /** What /readyz says once the agent has said in its log that it cannot work; all lines it wrote until then. */
  async function readyOnce(
    said: RegExp,
    {
      args = [],
      more = {},
      online,
    }: {
      args?: readonly string[];
      more?: Record<string, string | undefined>;
      online?: (line: string) => void;
    } = {},
  ): Promise<{ ready: string; lines: { level: string; msg: string; reason?: string }[] }> {
    const all = Object.entries({ ...env, ...more }).filter(([, value]) => value !== undefined);
    const [file = "", ...rest] = [...ownPids, process.execPath, bundle, "agent", ...args];
    child = spawn(file, rest, { env: Object.fromEntries(all), stdio: ["ignore", "pipe", "inherit"] });
    const lines = [];
    for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
      lines.push(JSON.parse(line));
      online?.(line);
      if (said.test(line)) break;
    }
    const ready = await fetch(`http://127.0.0.1:${env.HEALTH_PORT}/readyz`);
    expect(ready.status).toBe(503);
    expect((await fetch(`http://127.0.0.1:${env.HEALTH_PORT}/healthz`)).status).toBe(200);
    expect(child.exitCode).toBeNull();
    return { ready: await ready.text(), lines };
  }

  test("is up and says what is wrong with its kubeconfig, without a stack", async () => {
    const { ready, lines } = await readyOnce(/cannot start/);
    expect(ready).toContain(join(folder, "missing"));
    expect(lines.at(-1)?.reason).toContain(join(folder, "missing"));
    expect(JSON.stringify(lines)).not.toContain("    at ");
  });

  test("is up and not ready when it cannot tell which namespace is the host's", async () => {
    const { ready } = await readyOnce(/cannot start/, { more: { HOST_ROOT: folder } });
    expect(ready).toMatch(/start: Cannot tell the host's network namespace.*proc\/1\/ns\/net.*SYS_PTRACE/);
  });

  test("names every bad setting at once", async () => {
    const more = {
      NODE_NAME: undefined,
      LEAVE_PAUSE_MS: "-1",
      HOST_PROBE_SNAT_IP: "x",
      AMBIENT_IPV6: "maybe",
    };
    const { ready, lines } = await readyOnce(/standing by/, { more, args: ["--frob", "--log_caller=all"] });
    for (const name of ["NODE_NAME", "LEAVE_PAUSE_MS", "HOST_PROBE_SNAT_IP"]) expect(ready).toContain(name);
    const warned = lines.filter(({ level }) => level === "warn").map(({ msg }) => msg);
    expect(warned).toEqual([expect.stringContaining("AMBIENT_IPV6"), expect.stringContaining("--frob")]);
    expect(lines.filter(({ msg }) => msg === "settings without effect")).toHaveLength(1);
  });

  test("takes its entry out of the chain where nobody can tell who is outside the mesh, and stays up", async () => {
    const file = join(folder, "10-x.conflist");
    const plugins = [{ type: "bridge" }, { type: "ambient-cni" }];
    writeFileSync(file, JSON.stringify({ cniVersion: "1.0.0", name: "x", plugins }));
    const more = {
      AMBIENT_ENABLEMENT_SELECTOR: "a: b",
      INSTALL_CNI_PLUGIN: "true",
      MOUNTED_CNI_NET_DIR: folder,
    };
    const { ready } = await readyOnce(/left the CNI chain/, { more });
    expect(ready).toMatch(/AMBIENT_ENABLEMENT_SELECTOR="a: b"/);
    expect(JSON.parse(readFileSync(file, "utf8")).plugins).toEqual([{ type: "bridge" }]);
  });

  test("waits for ports that somebody else has", async () => {
    const holder = createServer().listen(0);
    await once(holder, "listening");
    const { port } = holder.address() as AddressInfo;
    const more = { AMBIENT_ENABLEMENT_SELECTOR: "a: b", HEALTH_PORT: String(port) };
    env.HEALTH_PORT = String(port);
    const refusal = "cannot open a port; trying again";
    const waiting = readyOnce(/the port is open now/, {
      more,
      online: (line) => {
        if (line.includes(refusal)) holder.close();
      },
    });
    expect((await waiting).lines).toContainEqual(expect.objectContaining({ msg: refusal }));
  });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}
