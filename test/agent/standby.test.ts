// SPDX-License-Identifier: Apache-2.0
// An agent that its settings keep from working, met by the real launcher and a real chain.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { Standby } from "../../src/agent/standby.ts";
import { loadConfig } from "../../src/config.ts";
import { exemptListName } from "../../src/install/exempt-namespaces.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { recordingLogger } from "../kube/kube-fixture.ts";
import {
  buildPlugin,
  builds,
  cniEnv,
  errorOf,
  type Run,
  runLauncher,
  scratchDir,
} from "../plugin/launcher.ts";
import { waitFor } from "../support/node/wait-for.ts";

let scratch: ReturnType<typeof scratchDir>;
let standby: Standby | undefined;
const previous = { cniVersion: "1.0.0", ips: [{ address: "10.0.0.1/24" }] };

beforeAll(() => buildPlugin());
beforeEach(() => {
  scratch = scratchDir();
  copyFileSync(builds[0].binary, launcher());
});
afterEach(async () => {
  await standby?.stop();
  standby = undefined;
  scratch[Symbol.dispose]();
});

const launcher = () => join(scratch.path, "ambient-cni");
const writeList = (namespace: string) =>
  writeFileSync(join(scratch.path, exemptListName), `start ${namespace} uid\n`);
const file = () => join(scratch.path, "10-x.conflist");
const entry = () => ({ type: "ambient-cni", cni_agent_run_dir: scratch.path, agent_wait_seconds: 1 });
const writeChain = (path = file()) =>
  writeFileSync(
    path,
    JSON.stringify({ cniVersion: "1.0.0", name: "x", plugins: [{ type: "bridge" }, entry()] }),
  );
const types = (path = file()): string[] =>
  (JSON.parse(readFileSync(path, "utf8")) as { plugins: { type: string }[] }).plugins.map(({ type }) => type);

async function start(env: Record<string, string>, log = silentLogger): Promise<void> {
  const all = {
    NODE_NAME: "n",
    CNI_AGENT_RUN_DIR: scratch.path,
    MOUNTED_CNI_NET_DIR: scratch.path,
    MOUNTED_CNI_BIN_DIR: scratch.path,
    ...env,
  };
  const config = loadConfig({ env: all, args: [] });
  expect(config.blockers.length).toBeGreaterThan(0);
  standby = new Standby({ config, reason: "the reason", log, lookMs: 20 });
  await standby.start();
}

function call(verb: string, namespace = "shop"): Promise<Run> {
  const args = `K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=web-0`;
  const input = JSON.stringify({ cniVersion: "1.0.0", name: "x", ...entry(), prevResult: previous });
  return runLauncher(launcher(), { env: cniEnv(verb, { CNI_ARGS: args }), input });
}

const broken = { AMBIENT_ENABLEMENT_SELECTOR: "a: b" };

describe("an agent that stands by", () => {
  test.each([
    ["nobody can tell who is outside the mesh", { ...broken, AGENT_AWAY_POLICY: "hold" }],
    ["the list of those outside was never made", { ...broken, AGENT_AWAY_POLICY: "namespace" }],
  ])("leaves the chain, and every pod starts, where %s", async (_, env) => {
    writeChain();
    const log = recordingLogger();
    await start(env, log);
    expect(types()).toEqual(["bridge"]);
    expect(log.lines).toEqual([expect.objectContaining({ level: "warn" })]);
    // the runtime may not have read the chain again yet
    const added = await call("ADD");
    expect([added.code, JSON.parse(added.stdout.toString())]).toEqual([0, previous]);
    for (const verb of ["DEL", "CHECK", "GC", "STATUS"]) expect((await call(verb)).code).toBe(0);
    // somebody puts a copy of it back
    writeChain();
    await waitFor("our entry to be gone again", () => types().length === 1, { timeoutMs: 5000 });
  });

  test("holds what may be of the mesh, with the reason, and lets the others start at once", async () => {
    writeChain();
    writeList("plain");
    await start({ ...broken, AGENT_AWAY_POLICY: "namespace" });
    expect(types()).toEqual(["bridge", "ambient-cni"]);
    const outside = await call("ADD", "plain");
    expect([outside.code, JSON.parse(outside.stdout.toString())]).toEqual([0, previous]);
    expect(outside.ms).toBeLessThan(900);
    expect(errorOf(await call("ADD")).msg).toContain("cannot work: the reason");
    for (const verb of ["DEL", "GC", "STATUS"]) expect((await call(verb)).code).toBe(0);
  });

  test("says once that it cannot leave the chain, and leaves it as soon as it can", async () => {
    const netDir = join(scratch.path, "net.d");
    writeFileSync(netDir, "no folder");
    const log = recordingLogger();
    await start({ ...broken, MOUNTED_CNI_NET_DIR: netDir }, log);
    expect(log.lines).toEqual([expect.objectContaining({ level: "error" })]);
    await delay(100);
    expect(log.lines).toHaveLength(1);
    expect((await call("ADD")).code).toBe(0);
    rmSync(netDir);
    mkdirSync(netDir);
    writeChain(join(netDir, "10-x.conflist"));
    await waitFor("our entry to be gone", () => types(join(netDir, "10-x.conflist")).length === 1);
  });

  test("leaves the auxiliary chain of Multus as well", async () => {
    const folder = join(scratch.path, "run/multus/cni/net.d/vendor-cni-chain");
    mkdirSync(folder, { recursive: true });
    writeFileSync(
      join(folder, "istio-cni.conf"),
      JSON.stringify({ cniVersion: "0.3.1", name: "istio-cni", ...entry() }),
    );
    await start({ ...broken, HOST_ROOT: scratch.path, CHAINED_CNI_PLUGIN: "false" });
    expect(readdirSync(folder)).toEqual([]);
  });

  test("leaves the chain to whoever made the entry where it is not ours to install", async () => {
    writeChain();
    await start({ ...broken, INSTALL_CNI_PLUGIN: "false" });
    expect(types()).toEqual(["bridge", "ambient-cni"]);
    expect((await call("ADD")).code).toBe(0);
  });
});
