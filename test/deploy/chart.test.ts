// SPDX-License-Identifier: Apache-2.0
import { appendFileSync, cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { parse } from "yaml";
import { Chart, findHelm, type Values } from "../../scripts/helm.ts";
import { currentRecord, plainManifest, plainManifests, recordPath } from "../../scripts/manifests.ts";
import { loadConfig } from "../../src/config.ts";
import { chartGlobals, chartValues } from "../settings/istio-cni-names.ts";
import { istioCniObjects } from "./istio-cni-daemonset.ts";

const root = join(import.meta.dirname, "../..");
const helm = await findHelm();
const lacks = "lacks" in helm ? helm.lacks : undefined;
const program = "program" in helm ? helm.program : "";
const chart = new Chart(program, join(root, "deploy/chart"));
const chartDefaults = parse(readFileSync(join(chart.folder, "values.yaml"), "utf8")) as Any;
const schema = JSON.parse(readFileSync(join(root, "deploy/chart/values.schema.json"), "utf8"));
const place = { releaseName: "mesh", namespace: "istio-system", kubeVersion: "1.30.0" } as const;

// biome-ignore lint/suspicious/noExplicitAny: Kubernetes objects are read field by field.
type Any = any;

const rendered = new Map<string, Any[]>();

function render(values: Values = {}, kubeVersion = "1.30.0"): Any[] {
  const key = JSON.stringify([values, kubeVersion]);
  const objects =
    rendered.get(key) ?? chart.render({ ...place, kubeVersion, values }).map(({ object }) => object);
  rendered.set(key, objects);
  return structuredClone(objects);
}

function find(objects: readonly Any[], kind: string): Any {
  const found = objects.filter((object) => object.kind === kind);
  expect(found.map(({ metadata }) => metadata.name)).toHaveLength(1);
  return found[0];
}

function container(objects: readonly Any[]): Any {
  return find(objects, "DaemonSet").spec.template.spec.containers[0];
}

function settings(objects: readonly Any[]): Record<string, string> {
  return find(objects, "ConfigMap").data;
}

/** A copy of a folder, for a change; it is gone when the test is over. */
function copyOf(path: string): string {
  const dir = mkdtempSync(join(tmpdir(), "chart-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  cpSync(join(root, path), join(dir, path), { recursive: true });
  return join(dir, path);
}

/** Every way of setting values that the documentation names. */
const cases: Readonly<Record<string, Values>> = {
  defaults: {},
  "istio-cni's names": { istioCniNames: true },
  "values below cni": {
    cni: { chained: false, cniConfFileName: "99-x.conflist", ambient: { dnsCapture: false } },
  },
  "image by its whole name": { cni: { image: "registry.example/mesh/ambient-cni:2" } },
  "hub and tag": { hub: "registry.example/mesh", tag: "2", pullPolicy: "Always" },
  "own folders": {
    cniBinDir: "/a",
    cniConfDir: "/b",
    cniNetnsDir: "/c",
    cniMultusDir: "/m",
    cniConfFileName: "d.conf",
  },
  "own file": {
    istioOwnedCNIConfig: true,
    istioOwnedCNIConfigFileName: "01-own.conflist",
    cniConfGroupRead: true,
  },
  selectors: {
    ambient: {
      enablementSelectors: [
        { podSelector: { matchLabels: { mesh: "yes" } } },
        { namespaceSelector: { matchExpressions: [{ key: "mesh", operator: "Exists" }] } },
      ],
    },
  },
  "host network": { ambient: { shareHostNetworkNamespace: true }, healthPort: 18000, monitoringPort: 15024 },
  policies: {
    agentAwayPolicy: "hold",
    agentWaitSeconds: 0,
    probeMatch: "kubelet",
    establishedConnections: "reset",
    leavePauseMs: 0,
    leaveDrainMs: 60_000,
    forceIptablesBinary: "nft",
  },
  switches: {
    dashboard: true,
    replaceIstioCni: true,
    releasePodsOnUninstall: true,
    ambient: { ipv6: false },
    excludeNamespaces: ["a", "b"],
  },
  "the runtime's word, elsewhere": { nri: { socketDir: "/run/k3s/nri", refuse: false } },
  "without the runtime's word": { nri: { enabled: false } },
  repair: { repair: { enabled: true } },
  "repair by deletion": { repair: { enabled: true, repairPods: false, deletePods: true } },
  "repair by a label": {
    cni: { repair: { enabled: true, repairPods: false, labelPods: true, brokenPodLabelValue: true } },
  },
  env: {
    env: { LOG_LEVEL: "debug", ZTUNNEL_WAIT_SECONDS: 30, EXCLUDE_NAMESPACES: "mine", NOTE: "yes & <no>" },
  },
  logging: { logging: { level: "default:info,cni:debug" }, global: { logAsJson: true } },
  pod: {
    podLabels: { team: "mesh" },
    podAnnotations: { note: "on" },
    daemonSetLabels: { tier: "node" },
    affinity: { nodeAffinity: { x: 1 } },
    tolerations: [],
    priorityClassName: "high",
    terminationGracePeriodSeconds: 9,
    resources: { limits: { memory: "200Mi" } },
  },
  security: {
    privileged: true,
    readOnlyRootFilesystem: false,
    seccompProfile: { type: "Unconfined" },
    seLinuxOptions: { type: "x_t" },
  },
  "rolling update": { rollingMaxUnavailable: "10%" },
  "update strategy": { updateStrategy: { type: "OnDelete", rollingUpdate: null } },
  "everything optional": {
    networkPolicy: { enabled: true },
    resourceQuotas: { enabled: true },
    podMonitor: { enabled: true, interval: "10s" },
    global: { imagePullSecrets: ["one", "two"], nativeNftables: true, imagePullPolicy: "IfNotPresent" },
  },
  "every value of istio-cni": { ...chartValues, global: chartGlobals },
  "every value of istio-cni below cni": { cni: chartValues, global: chartGlobals },
  "Istio's switch for policies": { global: { networkPolicy: { enabled: true } } },
  "values of istio-cni that mean nothing here": {
    profile: "ambient",
    variant: "distroless",
    provider: "multus",
    revision: "a",
    ownerName: "b",
    repair: { hub: "", tag: 1 },
    logLevel: "debug",
  },
  ...Object.fromEntries(
    ["aks", "eks", "gke", "k3d", "k3s", "kind", "microk8s", "minikube", "openshift", "talos"].map(
      (platform) => [`platform ${platform}`, { global: { platform } }],
    ),
  ),
};

if (lacks !== undefined)
  test("Helm was not to be had on this machine: nobody looked at the chart", (context) =>
    context.skip(lacks));

describe.skipIf(lacks !== undefined)("the chart", () => {
  test("has nothing that Helm's lint finds", () => {
    chart.lint();
  });

  test("has faults that Helm's lint finds, when one is planted", () => {
    const folder = copyOf("deploy/chart");
    appendFileSync(join(folder, "Chart.yaml"), "apiVersion: v7\n");
    expect(() => new Chart(program, folder).lint()).toThrow("the chart has faults");
  });

  test("has no value that is not there", () => {
    const folder = copyOf("deploy/chart");
    appendFileSync(join(folder, "templates/rbac.yaml"), "# {{ .Values.misspelt }}\n");
    expect(() => new Chart(program, folder).render(place)).toThrow(/map has no entry for key "misspelt"/);
  });

  test("is refused by a Kubernetes that it was not made for", () => {
    expect(() => chart.render({ ...place, kubeVersion: "1.19.9" })).toThrow(
      /requires kubeVersion: >=1.20.0-0/,
    );
  });

  test.each(Object.entries(cases))("renders a whole with %s", (_, values) => {
    const objects = render(values);
    const daemonSet = find(objects, "DaemonSet");
    const { spec } = daemonSet.spec.template;
    expect(daemonSet.spec.template.metadata.labels).toMatchObject(daemonSet.spec.selector.matchLabels);
    // what is mounted is there, and what is there is mounted
    const mounts = container(objects).volumeMounts.map(({ name }: Any) => name);
    expect(mounts.toSorted()).toEqual(spec.volumes.map(({ name }: Any) => name).toSorted());
    // names point at each other
    const account = find(objects, "ServiceAccount").metadata;
    expect(spec.serviceAccountName).toBe(account.name);
    expect(container(objects).envFrom).toEqual([
      { configMapRef: { name: find(objects, "ConfigMap").metadata.name } },
    ]);
    for (const kind of ["Role", "ClusterRole"]) {
      const binding = find(objects, `${kind}Binding`);
      expect(binding.roleRef).toEqual({
        apiGroup: "rbac.authorization.k8s.io",
        kind,
        name: find(objects, kind).metadata.name,
      });
      expect(binding.subjects).toEqual([
        { kind: "ServiceAccount", name: account.name, namespace: "istio-system" },
      ]);
    }
    expect(find(objects, "Role").rules[0].resourceNames).toEqual([daemonSet.metadata.name]);
    // ConfigMaps and annotations hold nothing but strings
    for (const value of Object.values(settings(objects))) expect(value).toBeTypeOf("string");
    for (const value of Object.values(daemonSet.spec.template.metadata.annotations)) {
      expect(value).toBeTypeOf("string");
    }
    for (const { metadata, kind } of objects) {
      expect(metadata.namespace).toBe(/^Cluster/.test(kind) ? undefined : "istio-system");
    }
  });

  test.each(Object.entries(cases))("gives the agent settings that it takes with %s", (_, values) => {
    const env = { ...settings(render(values)), NODE_NAME: "n", POD_NAME: "p", POD_NAMESPACE: "istio-system" };
    const args = container(render(values)).args;
    const { faults, blockers, warnings } = loadConfig({ env, args });
    expect({ faults, blockers, warnings }).toEqual({ faults: [], blockers: [], warnings: [] });
  });

  test("grants what the agent asks for and nothing else", () => {
    const objects = render();
    expect(find(objects, "ClusterRole").rules).toEqual([
      { apiGroups: [""], resources: ["pods", "namespaces"], verbs: ["get", "list", "watch"] },
      { apiGroups: [""], resources: ["nodes"], verbs: ["get"] },
      { apiGroups: [""], resources: ["pods/status"], verbs: ["patch"] },
      { apiGroups: [""], resources: ["events"], verbs: ["create", "patch"] },
    ]);
    expect(find(objects, "Role").rules).toEqual([
      { apiGroups: ["apps"], resources: ["daemonsets"], resourceNames: ["ambient-cni-node"], verbs: ["get"] },
    ]);
  });

  test.each<[string, Values, object, boolean]>([
    ["off, unless it is asked for", {}, { mode: undefined }, false],
    [
      "off, whatever else is said of it",
      { repair: { repairPods: false, deletePods: true } },
      { mode: undefined },
      false,
    ],
    [
      "in place, when it is only switched on, without a right more",
      { repair: { enabled: true } },
      { mode: "repair" },
      false,
    ],
    [
      "in place, where deletion is asked for besides",
      { repair: { enabled: true, deletePods: true } },
      { mode: "repair" },
      false,
    ],
    ["deletion, with the right to it", cases["repair by deletion"] as Values, { mode: "delete" }, true],
    ["labels", cases["repair by a label"] as Values, { mode: "label", labelValue: "true" }, false],
    [
      "what the values name",
      {
        repair: {
          enabled: true,
          repairPods: false,
          deletePods: false,
          labelPods: true,
          initContainerName: "check",
          brokenPodLabelKey: "mesh/broken",
          brokenPodLabelValue: "yes",
        },
      },
      { mode: "label", initContainerName: "check", labelKey: "mesh/broken", labelValue: "yes" },
      false,
    ],
  ])("has broken sidecar pods repaired: %s", (_, values, repair, mayDelete) => {
    const objects = render(values);
    const env = { ...settings(objects), NODE_NAME: "n" };
    expect(loadConfig({ env, args: [] }).repair).toMatchObject({ nodeName: "n", ...repair });
    const deletions = find(objects, "ClusterRole").rules.filter(({ verbs }: Any) => verbs.includes("delete"));
    expect(deletions).toEqual(mayDelete ? [{ apiGroups: [""], resources: ["pods"], verbs: ["delete"] }] : []);
  });

  test("lets the agent use the privileged constraint on OpenShift only", () => {
    const rules = find(render(cases["platform openshift"]), "ClusterRole").rules;
    expect(rules.at(-1)).toEqual({
      apiGroups: ["security.openshift.io"],
      resources: ["securitycontextconstraints"],
      resourceNames: ["privileged"],
      verbs: ["use"],
    });
    expect(JSON.stringify(find(render(cases["platform talos"]), "ClusterRole"))).not.toContain("openshift");
  });

  test("runs the agent unprivileged, with five capabilities and nothing to write on but its mounts", () => {
    expect(container(render()).securityContext).toEqual({
      runAsUser: 0,
      runAsGroup: 0,
      runAsNonRoot: false,
      privileged: false,
      readOnlyRootFilesystem: true,
      allowPrivilegeEscalation: true,
      capabilities: {
        drop: ["ALL"],
        add: ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"],
      },
      appArmorProfile: { type: "Unconfined" },
      seccompProfile: { type: "RuntimeDefault" },
    });
  });

  test("tells AppArmor by annotation before Kubernetes 1.30, which has no field for it", () => {
    const [older, newer] = [render({}, "1.29.9"), render({}, "1.31.0")];
    const annotation = "container.apparmor.security.beta.kubernetes.io/install-cni";
    expect(find(older, "DaemonSet").spec.template.metadata.annotations[annotation]).toBe("unconfined");
    expect(container(older).securityContext).not.toHaveProperty("appArmorProfile");
    expect(find(newer, "DaemonSet").spec.template.metadata.annotations).not.toHaveProperty([annotation]);
  });

  test("changes the pods when a setting changes", () => {
    const checksum = (values: Values) =>
      find(render(values), "DaemonSet").spec.template.metadata.annotations["checksum/config"];
    expect(checksum({ leaveDrainMs: 1 })).not.toBe(checksum({}));
    expect(checksum({ podLabels: { a: "b" } })).toBe(checksum({}));
  });

  test("takes values below cni before those beside it, false ones too", () => {
    const data = settings(
      render({ chained: true, replaceIstioCni: true, cni: { chained: false, replaceIstioCni: false } }),
    );
    expect(data).toMatchObject({ CHAINED_CNI_PLUGIN: "false", REPLACE_ISTIO_CNI: "false" });
  });

  test("takes a value that is given before the platform's", () => {
    const objects = render({ platform: "openshift", chained: true, cniBinDir: "/mine" });
    expect(settings(objects).CHAINED_CNI_PLUGIN).toBe("true");
    const paths = find(objects, "DaemonSet").spec.template.spec.volumes.map(
      ({ hostPath }: Any) => hostPath.path,
    );
    expect(paths).toContain("/mine");
    expect(paths).toContain("/etc/cni/multus/net.d");
  });

  test("mounts the runtime's namespaces where the agent looks for the path it is given", () => {
    const mount = container(render(cases["platform minikube"])).volumeMounts.find(
      ({ name }: Any) => name === "cni-netns-dir",
    );
    expect(mount).toEqual({
      name: "cni-netns-dir",
      mountPath: "/host/var/run/docker/netns",
      mountPropagation: "HostToContainer",
    });
  });

  test("mounts what istio-cni's DaemonSet mounts, with the same options, iptables' lock, and the runtime's socket", () => {
    const theirs = find(istioCniObjects("x"), "DaemonSet").spec.template.spec.containers[0].volumeMounts;
    const ours = container(render()).volumeMounts;
    expect(ours).toEqual(expect.arrayContaining(theirs));
    expect(ours).toHaveLength(theirs.length + 2);
  });

  test("mounts the folder of the runtime's socket, wherever that is, unless the runtime is not to be heard", () => {
    const volume = (values: Values) =>
      find(render(values), "DaemonSet").spec.template.spec.volumes.find(
        ({ name }: Any) => name === "nri-socket-dir",
      );
    const setting = (values: Values) => find(render(values), "ConfigMap").data.NRI_ENABLED;
    expect(volume({}).hostPath).toEqual({ path: "/var/run/nri", type: "DirectoryOrCreate" });
    const elsewhere = cases["the runtime's word, elsewhere"] ?? {};
    expect(volume(elsewhere).hostPath.path).toBe("/run/k3s/nri");
    const mount = { name: "nri-socket-dir", mountPath: "/var/run/nri" };
    expect(container(render(elsewhere)).volumeMounts).toContainEqual(mount);
    expect(setting({})).toBeUndefined();
    const without = cases["without the runtime's word"] ?? {};
    expect(volume(without)).toBeUndefined();
    expect(container(render(without)).volumeMounts).not.toContainEqual(mount);
    expect(setting(without)).toBe("false");
  });

  test("names the platforms that it knows to whom names another one", () => {
    expect(() => render({ cni: { platform: "vms" } })).toThrow(/'\/cni\/platform'.* 'aks', .* 'talos'/);
  });

  test("makes a policy by its own switch and by the one of all of Istio's charts", () => {
    const count = (values: Values) => render(values).filter(({ kind }) => kind === "NetworkPolicy").length;
    expect(count({})).toBe(0);
    expect(count({ networkPolicy: { enabled: true } })).toBe(1);
    expect(count({ global: { networkPolicy: { enabled: true } } })).toBe(1);
  });

  test("makes the objects of one scope alone, where somebody else makes the others", () => {
    const kinds = (resourceScope: string) =>
      render({ ...cases["everything optional"], global: { resourceScope } }).map(({ kind }) => kind);
    const cluster = ["ClusterRole", "ClusterRoleBinding"];
    expect(kinds("cluster").sort()).toEqual(cluster);
    expect(kinds("namespace").sort()).toEqual(
      kinds("all")
        .filter((kind) => !cluster.includes(kind))
        .sort(),
    );
    expect(kinds("namespace")).toContain("DaemonSet");
  });

  test("has notes without anything missing in them", () => {
    expect(chart.notes(place)).toContain("kubectl -n istio-system rollout status daemonset/ambient-cni-node");
  });
});

describe("the schema", () => {
  test("knows every value of the chart, and the chart every value of the schema", () => {
    const withoutDefault = ["logLevel", "psp_cluster_role"];
    expect(
      Object.keys(schema.properties)
        .filter((name) => !withoutDefault.includes(name))
        .sort(),
    ).toEqual(Object.keys(chartDefaults).sort());
  });

  test.skipIf(lacks !== undefined).each([
    ["a misspelt value", { cniBindir: "/a" }],
    ["a misspelt value below cni", { cni: { cniBindir: "/a" } }],
    ["a relative folder", { cniBinDir: "opt/cni/bin" }],
    ["a file name with a folder", { cniConfFileName: "a/b" }],
    ["a text for a switch", { ambient: { dnsCapture: "no" } }],
    ["an unknown policy", { agentAwayPolicy: "maybe" }],
    ["a wait nobody can want", { agentWaitSeconds: 61 }],
    ["a pause that no label change is worth", { leavePauseMs: 10_001 }],
    ["a drain in seconds and a half", { leaveDrainMs: 1.5 }],
    ["an unknown platform", { global: { platform: "vms" } }],
    ["a misspelt repair", { repair: { deletepods: true } }],
    ["a repair that is a text", { repair: { enabled: "yes" } }],
    ["a selector that selects nothing known", { ambient: { enablementSelectors: [{ pods: {} }] } }],
  ])("refuses %s", (_, values) => {
    expect(() => render(values)).toThrow(/values don't meet the specifications of the schema/);
  });
});

describe("plain manifests", () => {
  test.skipIf(lacks !== undefined).each(plainManifests)(
    "$fileName is what the chart renders now (node scripts/manifests.ts)",
    (manifest) => {
      const text = readFileSync(join(root, "deploy/manifests", manifest.fileName), "utf8");
      expect(text).toBe(plainManifest(program, manifest));
    },
  );

  test("are those that were made, from the chart that is here", () => {
    expect(currentRecord(root)).toBe(readFileSync(join(root, recordPath), "utf8"));
  });

  test.each([
    "chart/values.yaml",
    "chart/templates/_names.tpl",
    "chart/files/platforms.yaml",
    "chart/.helmignore",
    "manifests/ambient-cni.yaml",
  ])("a change of %s is seen without Helm", (path) => {
    const folder = join(copyOf("deploy"), "..");
    expect(currentRecord(folder)).toBe(currentRecord(root));
    appendFileSync(join(folder, "deploy", path), "\n");
    expect(currentRecord(folder)).not.toBe(currentRecord(root));
  });

  test("are of the version that is built", () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    const [manifest] = plainManifests;
    expect(readFileSync(join(root, "deploy/manifests", manifest.fileName), "utf8")).toContain(
      `image: "localhost/ambient-cni:${version}"\n`,
    );
    expect(readFileSync(join(root, "deploy/Dockerfile"), "utf8")).toContain(`ARG VERSION=${version}\n`);
  });
});

describe("istio-cni's DaemonSet", () => {
  test("gives the agent settings that it takes", () => {
    const objects = istioCniObjects("localhost/ambient-cni:1");
    const { args, image, command } = container(objects);
    expect([command, image]).toEqual([["install-cni"], "localhost/ambient-cni:1"]);
    const config = loadConfig({ env: { ...settings(objects), NODE_NAME: "n" }, args });
    expect(config).toMatchObject({ faults: [], blockers: [], warnings: [] });
    expect([...config.excludeNamespaces]).toEqual(["kube-system"]);
    expect(config.selectors).toHaveLength(2);
    expect(config.repair).toMatchObject({ mode: "repair", nodeName: "n" });
  });
});

describe("deploy/README.md", () => {
  const readme = readFileSync(join(root, "deploy/README.md"), "utf8");

  test("names values that exist", () => {
    const named = [...readme.matchAll(/--set ([\w.]+)=|`([a-zA-Z]+(?:\.[a-zA-Z]+)*)(?:=[^`]*)?`/g)]
      .map(([, set, quoted]) => set ?? quoted!)
      .map((name) => name.replace(/^(values\.)?cni\./, ""));
    const exists = (name: string) =>
      name
        .split(".")
        .reduce<Any>((values, part) => (values === undefined ? undefined : values[part]), chartDefaults) !==
      undefined;
    // what the text quotes besides values: files, labels' values, states
    const others =
      /^(Dockerfile|ambient|pending|none|nsenter|istioctl|install-cni|privileged|baseline|enforce|aks|eks|gke|k3d|k3s|kind|microk8s|minikube|openshift|talos|values.schema.json|istio-cni.conf|nativeNftables|exclusive|[A-Z_]+|ztunnel|env\.[A-Z_]+|components\.cni\.enabled|demo|Ambient[A-Za-z]+|no|fail)$/;
    expect(
      named.filter((name) => !exists(name) && !others.test(name) && chartDefaults[name] === undefined),
    ).toEqual([]);
    expect(named).toEqual(
      expect.arrayContaining(["hub", "tag", "agentAwayPolicy", "resourceQuotas.enabled"]),
    );
  });

  test("explains each platform that the chart knows", () => {
    for (const name of Object.keys(cases).filter((name) => name.startsWith("platform "))) {
      expect(readme).toContain(`\`${name.slice("platform ".length)}\``);
    }
  });
});
