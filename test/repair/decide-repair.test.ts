// SPDX-License-Identifier: Apache-2.0
// From a pod of the API server's to what is to be done about it: who is broken, who is not, and that nothing grows with a pod.
import { expect, test } from "vitest";
import { pickFields } from "../../src/kube/pick-fields.ts";
import { decideRepair, type RepairDecision } from "../../src/repair/decide-repair.ts";
import { suspectFields, toSuspectPod } from "../../src/repair/suspect-pod.ts";
import { type RepairSettings, readRepairSettings } from "../../src/settings/repair-settings.ts";
import { SettingsReader } from "../../src/settings/settings-reader.ts";
import type { KubeObject } from "../support/api-server/objects.ts";
import { type BrokenPodOptions, brokenPod, noRules } from "./broken-pod.ts";

const settings: RepairSettings = {
  ...readRepairSettings(new SettingsReader({ REPAIR_DELETE_PODS: "true" }), "n1"),
};

/** As the watch does it: fields are picked out of bytes first. */
function decide(pod: KubeObject, changed: Partial<RepairSettings> = {}): RepairDecision | undefined {
  const used = { ...settings, ...changed };
  const picked = pickFields(Buffer.from(JSON.stringify(pod)), suspectFields(used));
  const suspect = toSuspectPod(picked, used);
  return suspect && decideRepair(suspect, used);
}

const terminated = (exitCode: number, reason = "Error") => ({ terminated: { ...noRules, exitCode, reason } });
const running = { running: { startedAt: "2026-11-29T12:01:00Z" } };

test.each<[string, BrokenPodOptions, Partial<RepairSettings>]>([
  ["waits after its check failed", {}, {}],
  ["is checked again", { state: running }, {}],
  ["has failed its check again", { state: terminated(126) }, {}],
  ["failed in another way now", { state: terminated(1) }, {}],
  ["ran before the node was started anew", { phase: "Running" }, {}],
  ["has the label already, where pods are deleted", { labels: { "cni.istio.io/uninitialized": "true" } }, {}],
  ["says what is asked for", {}, { terminationMessage: "  no redirect" }],
  ["failed with any code, where any counts", { lastState: terminated(1) }, { exitCode: 0 }],
  ["failed with the code asked for", { lastState: terminated(7) }, { exitCode: 7 }],
  ["has no annotation, where none is asked for", { annotations: {} }, { sidecarAnnotation: "" }],
  ["has an empty annotation", { annotations: { "sidecar.istio.io/status": "" } }, {}],
  ["has another annotation that is asked for", { annotations: { "a/b": "1" } }, { sidecarAnnotation: "a/b" }],
  ["has a check of another name that is asked for", { container: "check" }, { initContainerName: "check" }],
  ["has a check of any name, where any counts", { container: "check" }, { initContainerName: "" }],
])("a pod that %s is broken", (_, options, changed) => {
  expect(decide(brokenPod("a", options), changed)).toEqual({
    action: "delete",
    failureId: "containerd://c1 2026-11-29T12:00:00Z",
  });
});

test.each<[string, BrokenPodOptions, Partial<RepairSettings>]>([
  ["passed its check", { state: terminated(0, "Completed") }, {}],
  ["passed its check, by its code alone", { state: terminated(0, "") }, {}],
  ["failed once and has not come back", { state: terminated(126), lastState: {} }, {}],
  ["is checked for the first time", { state: running, lastState: {} }, {}],
  ["failed with another code", { lastState: terminated(1) }, {}],
  ["was killed", { lastState: terminated(137, "OOMKilled") }, {}],
  ["passed before it is checked again, where any code counts", { lastState: terminated(0) }, { exitCode: 0 }],
  ["says something else", {}, { terminationMessage: "no rules" }],
  [
    "says more than a kubelet keeps",
    { lastState: { terminated: { ...noRules, message: "x".repeat(4097) } } },
    { terminationMessage: "x" },
  ],
  ["has no sidecar", { annotations: {} }, {}],
  ["failed in another container", { container: "migrate" }, {}],
  ["is of another node", { nodeName: "n2" }, {}],
  ["has failed for good", { phase: "Failed" }, {}],
  ["is to be left alone", {}, { mode: undefined }],
])("a pod that %s is none", (_, options, changed) => {
  expect(decide(brokenPod("a", options), changed)).toBeUndefined();
});

test("a pod that is being deleted is none", () => {
  const pod = brokenPod("a");
  pod.metadata.deletionTimestamp = "2026-11-29T12:00:30Z";
  expect(decide(pod)).toBeUndefined();
});

test.each([
  ["repair", {}, "repair"],
  ["label", {}, "label"],
  ["label", { other: "true" }, "label"],
  ["label", { "cni.istio.io/uninitialized": "" }, "skip"],
  ["label", { "cni.istio.io/uninitialized": "false" }, "skip"],
] as const)("in mode %s a broken pod with labels %j: %s", (mode, labels, action) => {
  expect(decide(brokenPod("a", { labels }), { mode })?.action).toBe(action);
});

test("one check that passed says nothing for another one that did not", () => {
  const pod = brokenPod("a");
  const [failed] = (pod.status as { initContainerStatuses: object[] }).initContainerStatuses;
  const passed = { name: "istio-init", state: terminated(0), lastState: terminated(126) };
  (pod.status as { initContainerStatuses: object[] }).initContainerStatuses = [passed, failed as object];
  expect(decide(pod, { initContainerName: "" })?.action).toBe("delete");
  (pod.status as { initContainerStatuses: object[] }).initContainerStatuses = [passed];
  expect(decide(pod, { initContainerName: "" })).toBeUndefined();
});

test.each([
  ["no pod", null],
  ["a text", "pod"],
  ["no metadata", { spec: { nodeName: "n1" } }],
  ["a name that is none", { metadata: { uid: "u", namespace: "shop", name: 7 }, spec: { nodeName: "n1" } }],
  ["a UID over its bound", { ...brokenPod("a", { uid: "u".repeat(129) }) }],
])("%s is dropped", (_, raw) => {
  expect(toSuspectPod(raw, settings)).toBeUndefined();
});

test.each([
  ["a list", []],
  ["null", null],
  ["texts", ["istio-validation"]],
  ["a check without states", [{ name: "istio-validation" }]],
  ["states that are texts", [{ name: "istio-validation", state: "x", lastState: { terminated: "126" } }]],
  ["an end without a code", [{ name: "istio-validation", lastState: { terminated: {} } }]],
  ["a code that is a text", [{ name: "istio-validation", lastState: { terminated: { exitCode: "126" } } }]],
])("a pod whose statuses are %s is left alone", (_, initContainerStatuses) => {
  const pod = { ...brokenPod("a"), status: { phase: "Pending", initContainerStatuses } };
  expect(decide(pod as KubeObject)).toBeUndefined();
});

test("what is kept of a pod is small, whatever it holds", () => {
  const long = "x".repeat(1 << 20);
  const pod = brokenPod("a", {
    annotations: { "sidecar.istio.io/status": long, other: long },
    labels: { other: long },
  });
  const statuses = Array.from({ length: 1000 }, (_, index) => ({
    name: index % 2 === 0 ? `c${index}` : long,
    lastState: {
      terminated: { ...noRules, message: long, reason: long, containerID: long, finishedAt: long },
    },
  }));
  const used = { ...settings, initContainerName: "" };
  const kept = toSuspectPod({ ...pod, status: { initContainerStatuses: statuses } }, used);
  expect(kept?.ended).toHaveLength(256);
  expect(JSON.stringify(kept).length).toBeLessThan(64 << 10);
});
