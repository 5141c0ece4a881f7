// SPDX-License-Identifier: Apache-2.0
// A stand-in for istio-cni's plugin: what it does with its configuration, its kubeconfig and its agent's socket at ADD.
// Source: istio/istio cni/pkg/plugin/plugin.go, CmdAdd and doAddRun.
const { existsSync, readFileSync } = require("node:fs");
const { request } = require("node:http");
const { join } = require("node:path");

const conf = JSON.parse(readFileSync(0, "utf8") || "{}");
const pairs = (process.env.CNI_ARGS ?? "").split(";").map((pair) => pair.split("="));
const { K8S_POD_NAMESPACE: namespace, K8S_POD_NAME: name } = Object.fromEntries(pairs);
const kubeconfig = join(conf.cni_agent_run_dir ?? "/none", "istio-cni-kubeconfig");

function pass() {
  process.stdout.write(JSON.stringify(conf.prevResult ?? { cniVersion: conf.cniVersion, ips: [] }));
}

function fail(msg) {
  process.stdout.write(JSON.stringify({ cniVersion: conf.cniVersion, code: 999, msg: `istio-cni: ${msg}` }));
  process.exitCode = 1;
}

function pushEvent() {
  const ips = (conf.prevResult?.ips ?? []).map(({ address, gateway }) => ({
    Interface: null,
    Address: { IP: address.split("/")[0], Mask: null },
    Gateway: gateway ?? "",
  }));
  const body = JSON.stringify({
    Netns: process.env.CNI_NETNS,
    PodName: name,
    PodNamespace: namespace,
    IPs: ips,
  });
  const sent = request({
    socketPath: join(conf.cni_agent_run_dir, "pluginevent.sock"),
    path: "/cmdadd",
    method: "POST",
    timeout: 5_000,
  });
  sent.on("error", (error) => fail(`failed to contact node Istio CNI agent: ${error.message}`));
  sent.on("response", (response) => {
    response.resume();
    response.on("end", () =>
      response.statusCode === 200 ? pass() : fail(`status code ${response.statusCode}`),
    );
  });
  sent.end(body);
}

if (process.env.CNI_COMMAND === "VERSION")
  process.stdout.write(JSON.stringify({ cniVersion: "1.0.0", supportedVersions: ["0.3.1", "1.0.0"] }));
else if (process.env.CNI_COMMAND === "ADD") {
  if (namespace === conf.pod_namespace && name.startsWith("istio-cni-node-")) pass();
  else if (!existsSync(kubeconfig)) fail("failed to createNewK8sClient: no kubeconfig");
  else if ((conf.exclude_namespaces ?? []).includes(namespace) || conf.ambient_enabled !== true) pass();
  else {
    // what the API server would say of the namespace's label
    const { mesh } = JSON.parse(readFileSync(kubeconfig, "utf8"));
    if (mesh.includes(namespace) && (conf.enablement_selectors ?? []).length > 0) pushEvent();
    else pass();
  }
}
