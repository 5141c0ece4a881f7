// SPDX-License-Identifier: Apache-2.0
// The OpenShift runbook of deploy/README.md: each of its commands is run, against a node of folders with the mounts that it makes.
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { Chart, findHelm, type Values } from "../../scripts/helm.ts";
import { loadConfig } from "../../src/config.ts";
import { checkChain } from "../../src/diagnose/chain-check.ts";
import type { Finding } from "../../src/diagnose/finding.ts";
import { chainEntry } from "../../src/install/chain-entry.ts";
import { removeFromChain } from "../../src/install/chain-removal.ts";
import { Installer } from "../../src/install/installer.ts";
import { chainFolders } from "../../src/install/multus-chain.ts";
import { silentLogger } from "../../src/log/logger.ts";
import { istioCniObjects } from "./istio-cni-daemonset.ts";

const repository = join(import.meta.dirname, "../..");
const helm = await findHelm();
const readme = readFileSync(join(repository, "deploy/README.md"), "utf8");
const section = /### OpenShift\n([\s\S]*?)\n## /.exec(readme)?.[1] ?? "";
const commands = [...section.matchAll(/^ {4}(\S.*)$/gm)].map(([, line = ""]) => line);
const chain = "run/multus/cni/net.d/vendor-cni-chain";
const file = `${chain}/istio-cni.conf`;
const launcher = "var/lib/cni/bin/ambient-cni";

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects are read field by field.
type Any = any;

let dir: string;
/** The node's own root, and an agent's container on it. */
let node: string;
let container: string;
const installers: Installer[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "openshift-"));
  node = join(dir, "node");
  container = join(dir, "container");
  put("etc/kubernetes/cni/net.d/00-multus.conf", multus({ auxiliaryCNIChainName: "vendor-cni-chain" }));
  put(
    "run/multus/cni/net.d/10-ovn-kubernetes.conf",
    '{"name":"ovn-kubernetes","type":"ovn-k8s-cni-overlay"}',
  );
  mkdirSync(join(node, dirname(launcher)), { recursive: true });
});
afterEach(async () => {
  for (const installer of installers.splice(0)) await installer.stop();
  rmSync(dir, { recursive: true, force: true });
});

function put(path: string, text: string): void {
  mkdirSync(join(node, dirname(path)), { recursive: true });
  writeFileSync(join(node, path), text);
}

function multus(more: object): string {
  return JSON.stringify({
    cniVersion: "1.1.0",
    name: "multus-cni-network",
    type: "multus-shim",
    clusterNetwork: "/host/run/multus/cni/net.d/10-ovn-kubernetes.conf",
    ...more,
  });
}

/** Values of a `helm` command line. */
function valuesOf(command: string): Values {
  const values: Record<string, Any> = {};
  for (const [, path = "", value] of command.matchAll(/--set ([\w.]+)=(\S+)/g)) {
    const keys = path.split(".");
    const last = keys.pop() ?? "";
    const place = keys.reduce((map, key) => (map[key] ??= {}), values);
    place[last] = value;
  }
  return values;
}

function daemonSetOf(objects: readonly Any[]): Any {
  return objects.find(({ kind }) => kind === "DaemonSet").spec.template.spec;
}

function ourChart(command: string): { spec: Any; env: Record<string, string> } {
  if ("lacks" in helm) throw new Error(helm.lacks);
  const objects = new Chart(helm.program, join(repository, "deploy/chart"))
    .render({ releaseName: "r", namespace: "istio-system", kubeVersion: "1.34.0", values: valuesOf(command) })
    .map(({ object }) => object as Any);
  return { spec: daemonSetOf(objects), env: objects.find(({ kind }) => kind === "ConfigMap").data };
}

/** What istio-cni's chart makes of the platform openshift. Source: istio/istio manifests/helm-profiles/platform-openshift.yaml */
function theirChart(command: string): { spec: Any; env: Record<string, string> } {
  const { cniConfDir } = valuesOf(command) as { cniConfDir: string };
  const objects = istioCniObjects("x") as Any[];
  const spec = daemonSetOf(objects);
  const paths: Record<string, string> = { "cni-bin-dir": "/var/lib/cni/bin", "cni-net-dir": cniConfDir };
  for (const { name, hostPath } of spec.volumes) hostPath.path = paths[name] ?? hostPath.path;
  const { data } = objects.find(({ kind }) => kind === "ConfigMap");
  return { spec, env: { ...data, CHAINED_CNI_PLUGIN: "false", CNI_CONF_NAME: "istio-cni.conf" } };
}

/** Makes the container's mounts of the node's folders, as a runtime does, and reads the agent's settings in it. */
function enter({ spec, env }: { spec: Any; env: Record<string, string> }) {
  mkdirSync(container, { recursive: true });
  for (const { name, mountPath } of spec.containers[0].volumeMounts) {
    const { path } = spec.volumes.find((volume: Any) => volume.name === name).hostPath;
    // a runtime makes folders that are not there
    if (path !== "/proc" && !path.endsWith(".lock")) mkdirSync(join(node, path), { recursive: true });
    mkdirSync(join(container, dirname(mountPath)), { recursive: true });
    if (path === "/proc") mkdirSync(join(container, mountPath, "1"), { recursive: true });
    else symlinkSync(join(node, path), join(container, mountPath));
  }
  symlinkSync(node, join(container, "host/proc/1/root"));
  return loadConfig({ env: { ...env, NODE_NAME: "n", HOST_ROOT: join(container, "host") }, args: [] });
}

async function startAgent(config: ReturnType<typeof enter>): Promise<string | undefined> {
  let fault: string | undefined;
  const installer = new Installer({
    config: config.install,
    runDir: config.runDir,
    entry: chainEntry(config),
    replaceIstioCni: false,
    hostRoot: config.hostRoot,
    log: silentLogger,
    onstate: (now) => {
      fault = now;
    },
    onrepaired() {},
    onfight() {},
    onpeace() {},
    source: join(repository, "plugin/build/ambient-cni"),
  });
  installers.push(installer);
  await installer.start();
  return fault;
}

const ourInstall = commands.find((line) => line.startsWith("helm install ambient-cni")) ?? "";

async function doctor(config: ReturnType<typeof enter>): Promise<Finding[]> {
  const { install, hostRoot, hostRunDir } = config;
  return await checkChain({ install, hostRoot, hostRunDir, told: undefined, pods: undefined });
}

function tmpfiles(text: string): void {
  const path = join(dir, "tmpfiles.conf");
  writeFileSync(path, text);
  execFileSync("systemd-tmpfiles", ["--create", `--root=${node}`, path], { stdio: "pipe" });
}

const hasTmpfiles = existsSync("/usr/bin/systemd-tmpfiles") || existsSync("/bin/systemd-tmpfiles");
const machineConfigs = (): Any[] =>
  parseAllDocuments(readFileSync(join(repository, "deploy/openshift/machineconfig.yaml"), "utf8")).map(
    (document) => document.toJS(),
  );
const tmpfilesText = (): string => {
  const [{ contents }] = machineConfigs()[0].spec.config.storage.files;
  return decodeURIComponent(contents.source.replace(/^data:,/, ""));
};

/** What each command does, by its beginning; there is no other command in the section. */
const runners: readonly (readonly [string, (command: string) => Promise<void>])[] = [
  [
    "oc debug node/NODE -q -- chroot /host grep",
    async (command) => {
      const line = command.slice(command.indexOf("chroot /host ") + "chroot /host ".length);
      const run = () =>
        execFileSync("sh", ["-c", line.replace(/ \/etc/, ` ${node}/etc`)], { encoding: "utf8" });
      expect(run()).toBe('"auxiliaryCNIChainName":"vendor-cni-chain"\n');
      put("etc/kubernetes/cni/net.d/00-multus.conf", multus({}));
      expect(run).toThrow();
    },
  ],
  [
    "helm install ambient-cni",
    async (command) => {
      expect(await startAgent(enter(ourChart(command)))).toBeUndefined();
      expect([existsSync(join(node, file)), existsSync(join(node, launcher))]).toEqual([true, true]);
      expect(readdirSync(join(node, "etc/cni/multus/net.d"))).toEqual(["istio-cni.conf"]);
    },
  ],
  [
    "helm upgrade --install istio-cni",
    async (command) => {
      const config = enter(theirChart(command));
      expect(await startAgent(config)).toBeUndefined();
      expect([existsSync(join(node, file)), existsSync(join(node, launcher))]).toEqual([true, true]);
      expect((await doctor(config)).filter(({ level }) => level !== "ok")).toEqual([]);
    },
  ],
  [
    "oc -n istio-system exec ds/ambient-cni-node -- ambient-cni doctor",
    async () => {
      const config = enter(ourChart(ourInstall));
      await startAgent(config);
      expect((await doctor(config)).filter(({ level }) => level !== "ok")).toEqual([]);
      put("etc/kubernetes/cni/net.d/00-multus.conf", multus({}));
      const [said, ...others] = (await doctor(config)).filter(({ level }) => level !== "ok");
      expect(others).toEqual([]);
      expect(said?.fix).toContain("auxiliaryCNIChainName");
    },
  ],
  [
    "oc apply -f deploy/openshift/machineconfig.yaml",
    async () => {
      const roles = machineConfigs().map(({ kind, metadata }) => [kind, Object.values(metadata.labels)[0]]);
      expect(roles).toEqual([
        ["MachineConfig", "master"],
        ["MachineConfig", "worker"],
      ]);
      expect(new Set(machineConfigs().map(({ spec }) => JSON.stringify(spec))).size).toBe(1);
      expect(tmpfilesText()).toContain(`/${file}`);
    },
  ],
];

describe.skipIf("lacks" in helm)("deploy/README.md, OpenShift", () => {
  test("has commands, and each of them is run here", () => {
    expect(commands).toHaveLength(runners.length);
    for (const command of commands)
      expect(runners.filter(([begins]) => command.startsWith(begins))).toHaveLength(1);
  });

  test.each(commands)("%s", async (command) => {
    const [, run] = runners.find(([begins]) => command.startsWith(begins)) ?? [];
    await run?.(command);
  });

  test("an agent of the chart takes its files away, and nothing else", async () => {
    const config = enter(ourChart(ourInstall));
    await startAgent(config);
    for (const installer of installers.splice(0)) await installer.stop();
    const { netDir } = config.install;
    for (const folder of await chainFolders({ hostRoot: config.hostRoot, netDir }))
      await removeFromChain({ netDir: folder, hostRoot: config.hostRoot });
    expect([existsSync(join(node, file)), readdirSync(join(node, "etc/cni/multus/net.d"))]).toEqual([
      false,
      [],
    ]);
    expect(readdirSync(join(node, "run/multus/cni/net.d"))).toContain("10-ovn-kubernetes.conf");
  });

  test.skipIf(!hasTmpfiles)(
    "at boot systemd puts the file back, of a node that has an agent only",
    async () => {
      tmpfiles(tmpfilesText());
      expect(readdirSync(join(node, chain))).toEqual([]);
      await startAgent(enter(ourChart(ourInstall)));
      for (const installer of installers.splice(0)) await installer.stop();
      const text = readFileSync(join(node, file), "utf8");
      rmSync(join(node, "run"), { recursive: true });
      tmpfiles(tmpfilesText());
      expect(readFileSync(join(node, file), "utf8")).toBe(text);
      // what is there is never written over
      writeFileSync(join(node, file), "newer");
      chmodSync(join(node, file), 0o600);
      tmpfiles(tmpfilesText());
      expect(readFileSync(join(node, file), "utf8")).toBe("newer");
    },
  );
});
