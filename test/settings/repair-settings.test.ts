// SPDX-License-Identifier: Apache-2.0
// REPAIR_*: istio-cni's defaults, which of three modes counts, and nonsense that never has more pods deleted than were meant.
import { expect, test } from "vitest";
import { type RepairSettings, readRepairSettings } from "../../src/settings/repair-settings.ts";
import { SettingsReader } from "../../src/settings/settings-reader.ts";

function read(env: Record<string, string>): SettingsReader & { readonly settings: RepairSettings } {
  const reader = new SettingsReader(env);
  return Object.assign(reader, { settings: readRepairSettings(reader, "n1") });
}

const defaults: RepairSettings = {
  mode: undefined,
  nodeName: "n1",
  labelKey: "cni.istio.io/uninitialized",
  labelValue: "true",
  sidecarAnnotation: "sidecar.istio.io/status",
  initContainerName: "istio-validation",
  terminationMessage: "",
  exitCode: 126,
  labelSelectors: "",
  fieldSelectors: "",
};

test("nothing is repaired unless a mode is asked for", () => {
  expect(read({}).settings).toEqual(defaults);
  expect(read({ REPAIR_ENABLED: "true" }).settings).toEqual(defaults);
});

test("what istio-cni's DaemonSet sets is repair in place", () => {
  const { settings, faults, warnings } = read({
    REPAIR_ENABLED: "true",
    REPAIR_LABEL_PODS: "false",
    REPAIR_DELETE_PODS: "false",
    REPAIR_REPAIR_PODS: "true",
    REPAIR_INIT_CONTAINER_NAME: "istio-validation",
    REPAIR_BROKEN_POD_LABEL_KEY: "cni.istio.io/uninitialized",
    REPAIR_BROKEN_POD_LABEL_VALUE: "true",
    REPAIR_NODE_NAME: "n1",
    REPAIR_SIDECAR_ANNOTATION: "sidecar.istio.io/status",
  });
  expect(settings).toEqual({ ...defaults, mode: "repair" });
  expect([...faults, ...warnings]).toEqual([]);
});

const all = { REPAIR_REPAIR_PODS: "true", REPAIR_DELETE_PODS: "true", REPAIR_LABEL_PODS: "true" };
test.each([
  [all, "repair"],
  [{ ...all, REPAIR_REPAIR_PODS: "false" }, "delete"],
  [{ REPAIR_LABEL_PODS: "true" }, "label"],
  [{ ...all, REPAIR_ENABLED: "false" }, undefined],
  [{ ...all, REPAIR_ENABLED: "" }, undefined],
])("of the modes that %j asks for, %s counts", (env, mode) => {
  expect(read(env).settings.mode).toBe(mode);
});

test.each([
  ["REPAIR_LABEL_SELECTORS", "app=", undefined],
  ["REPAIR_LABEL_SELECTORS", "app in (a", /no requirement such as/],
  ["REPAIR_FIELD_SELECTORS", "metadata.namespace", /not FIELD=VALUE/],
  ["REPAIR_BROKEN_POD_LABEL_KEY", "a b", undefined],
])(
  "where pods are deleted, %s=%j has nothing done rather than more than was meant",
  (name, value, reason) => {
    const { settings, faults } = read({ REPAIR_DELETE_PODS: "true", [name]: value });
    expect(settings.mode).toBe(reason === undefined ? "delete" : undefined);
    const told = { name, value, reason: expect.stringMatching(reason ?? "") as string };
    expect(faults).toEqual(reason === undefined ? [] : [told]);
    expect(faults.every((fault) => fault.reason.endsWith('"REPAIR_ENABLED=false" is used instead'))).toBe(
      true,
    );
  },
);

test.each([
  ["REPAIR_BROKEN_POD_LABEL_KEY", "a b"],
  ["REPAIR_BROKEN_POD_LABEL_KEY", `${"x".repeat(64)}`],
  ["REPAIR_BROKEN_POD_LABEL_VALUE", "-"],
])("where pods get a label, %s=%j is a fault", (name, value) => {
  const { settings, faults } = read({ REPAIR_LABEL_PODS: "true", [name]: value });
  expect(settings.mode).toBeUndefined();
  expect(faults).toMatchObject([{ name, value }]);
});

test.each(["x", "-1", "256", "1.5"])("an exit code of %j is the default, not any", (value) => {
  const { settings, faults } = read({ REPAIR_DELETE_PODS: "true", REPAIR_INIT_CONTAINER_EXIT_CODE: value });
  expect(settings).toMatchObject({ mode: "delete", exitCode: 126 });
  expect(faults).toMatchObject([{ name: "REPAIR_INIT_CONTAINER_EXIT_CODE", value }]);
});

test("another node's pods are repaired as asked, and that is said", () => {
  const { settings, warnings } = read({ REPAIR_LABEL_PODS: "true", REPAIR_NODE_NAME: "n2" });
  expect(settings.nodeName).toBe("n2");
  expect(warnings).toEqual([expect.stringMatching(/REPAIR_NODE_NAME="n2".*"n1"/)]);
});
