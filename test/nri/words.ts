// SPDX-License-Identifier: Apache-2.0
// The runtime's side of NRI's messages, for tests.
import type { RuntimeSandbox } from "../../src/nri/messages.ts";
import { bytesField, numberField, textField } from "../../src/protobuf/wire.ts";

/** A sandbox as tests know it. */
export const sandbox: RuntimeSandbox = {
  id: "ab".repeat(32),
  uid: "11111111-2222-3333-4444-555555555555",
  namespace: "mesh",
  name: "web-0",
  netnsPath: "/var/run/netns/cni-1",
  ips: ["10.0.0.7", "fd00::7"],
};

/** PodSandbox, with words around those that we read. */
export function podSandbox(of: RuntimeSandbox): Uint8Array {
  const entry = bytesField(5, Buffer.concat([textField(1, "app"), textField(2, "web")]));
  const uts = bytesField(5, textField(1, "uts"));
  const network = Buffer.concat([textField(1, "network"), textField(2, of.netnsPath)]);
  const linux = Buffer.concat([
    textField(3, "/kubepods"),
    uts,
    ...(of.netnsPath === "" ? [] : [bytesField(5, network)]),
  ]);
  return Buffer.concat([
    ...[textField(1, of.id), textField(2, of.name), textField(3, of.uid), textField(4, of.namespace)],
    ...[entry, textField(7, "runc"), bytesField(8, linux), numberField(9, 4711)],
    ...of.ips.map((ip) => textField(10, ip)),
  ]);
}

/** RunPodSandboxRequest and the like. */
export function sandboxRequest(of: RuntimeSandbox): Uint8Array {
  return bytesField(1, podSandbox(of));
}

/** StateChangeEvent. @param event 1: run, 2: stop, 3: remove */
export function stateChange(event: number, of: RuntimeSandbox): Uint8Array {
  return Buffer.concat([numberField(1, event), bytesField(2, podSandbox(of))]);
}

/** SynchronizeRequest, with a container. */
export function synchronization(pods: readonly RuntimeSandbox[], more = false): Uint8Array {
  const container = bytesField(2, Buffer.concat([textField(1, "c1"), numberField(4, 3)]));
  return Buffer.concat([
    ...pods.map((pod) => bytesField(1, podSandbox(pod))),
    container,
    numberField(3, more ? 1 : 0),
  ]);
}

/** ConfigureRequest, as containerd's. */
export function greeting(version = "2.1.9", requestTimeoutMs = 2000): Uint8Array {
  return Buffer.concat([
    ...[textField(2, "containerd"), textField(3, version), numberField(4, 5000)],
    ...[numberField(5, requestTimeoutMs), textField(6, "v0.8.0")],
  ]);
}

/** ConfigureRequest of CRI-O 1.37.0, as it was seen. */
export const crioGreeting: Uint8Array = Buffer.concat([
  ...[textField(2, "cri-o"), textField(3, "1.37.0"), numberField(4, 5000)],
  ...[numberField(5, 2000), textField(6, "v0.12.0")],
]);

/** PodSandbox of CRI-O 1.37.0: no process, for it has no pause container, and the namespace by the path at which it is pinned. */
function crioSandbox(of: RuntimeSandbox): Uint8Array {
  const kind = (type: string, path = "") =>
    bytesField(5, Buffer.concat([textField(1, type), textField(2, path)]));
  const cgroup = `/kubepods/burstable/pod${of.uid}`;
  const linux = Buffer.concat([
    ...[bytesField(1, new Uint8Array()), bytesField(2, new Uint8Array())],
    ...[textField(3, cgroup), textField(4, `${cgroup}/crio-${of.id}`)],
    ...[kind("pid"), kind("network", of.netnsPath), kind("ipc", of.netnsPath.replace("netns", "ipcns"))],
    ...[kind("uts", of.netnsPath.replace("netns", "utsns")), kind("mount")],
  ]);
  const label = bytesField(5, Buffer.concat([textField(1, "io.kubernetes.pod.name"), textField(2, of.name)]));
  return Buffer.concat([
    ...[textField(1, of.id), textField(2, of.name), textField(3, of.uid), textField(4, of.namespace)],
    ...[label, bytesField(8, linux), ...of.ips.map((ip) => textField(10, ip))],
  ]);
}

/** RunPodSandboxRequest and the like, as CRI-O's. */
export function crioRequest(of: RuntimeSandbox): Uint8Array {
  return bytesField(1, crioSandbox(of));
}

/** SynchronizeRequest, as CRI-O's. */
export function crioSynchronization(pods: readonly RuntimeSandbox[]): Uint8Array {
  return Buffer.concat(pods.map((pod) => bytesField(1, crioSandbox(pod))));
}
