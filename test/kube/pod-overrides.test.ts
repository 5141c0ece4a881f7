// SPDX-License-Identifier: Apache-2.0
// Per-pod annotations: what they change, and what is ignored with a warning.
import { expect, test } from "vitest";
import { podAnnotations, toPodFacts } from "../../src/kube/pod-facts.ts";
import { interfaceNameFault, podOverridesOf, readPodOverrides } from "../../src/kube/pod-overrides.ts";

const bypass = "ambient.istio.io/bypass-inbound-capture";
const dns = "ambient.istio.io/dns-capture";
const reroute = "istio.io/reroute-virtual-interfaces";

test("overrides are neutral when a pod has no annotations", () => {
  expect(readPodOverrides({})).toEqual({ ingressMode: false, virtualInterfaces: [], warnings: [] });
});

test.each([
  [{ [bypass]: "true" }, { ingressMode: true, virtualInterfaces: [] }],
  [{ [bypass]: "0" }, { ingressMode: false, virtualInterfaces: [] }],
  [{ [dns]: "false" }, { ingressMode: false, dnsCapture: false, virtualInterfaces: [] }],
  [{ [dns]: "T" }, { ingressMode: false, dnsCapture: true, virtualInterfaces: [] }],
  [{ [reroute]: "net1, veth0,,net1" }, { ingressMode: false, virtualInterfaces: ["net1", "veth0"] }],
  [
    { [reroute]: "eth0.100,docker_0,br-1a2b@x" },
    { ingressMode: false, virtualInterfaces: ["eth0.100", "docker_0", "br-1a2b@x"] },
  ],
  [{ [reroute]: "" }, { ingressMode: false, virtualInterfaces: [] }],
])("overrides follow the annotations %j", (annotations, expected) => {
  expect(readPodOverrides(annotations)).toEqual({ ...expected, warnings: [] });
});

test("a warning has nothing in it that a terminal obeys", () => {
  // C1 control sequence introducer, and DEL
  const { warnings } = readPodOverrides({ [bypass]: "\u009b31m\u007f\u0007\u001b[2J" });
  expect(warnings).toEqual([
    `Cannot use annotation ${bypass}="\\u009b31m\\u007f\\u0007\\u001b[2J": not a boolean; use "true" or "false"`,
  ]);
});

test("overrides warn and ignore when a boolean is not one", () => {
  const overrides = readPodOverrides({ [bypass]: "yes", [dns]: "" });
  expect(overrides).toMatchObject({ ingressMode: false, virtualInterfaces: [] });
  expect(overrides.dnsCapture).toBeUndefined();
  expect(overrides.warnings).toEqual([
    `Cannot use annotation ${bypass}="yes": not a boolean; use "true" or "false"`,
    `Cannot use annotation ${dns}="": not a boolean; use "true" or "false"`,
  ]);
});

test.each([
  "sixteen-bytes-ab",
  "a b",
  "net/1",
  "net\u00001",
  "net\n-j ACCEPT",
  'net"1',
  "net\\1",
  "net;1",
  "-i",
  "+",
  "!net1",
  ".",
  "..",
  "é",
])("the interface %j is warned about and ignored", (name) => {
  const overrides = readPodOverrides({ [reroute]: `net1,${name}` });
  expect(overrides.virtualInterfaces).toEqual(["net1"]);
  expect(overrides.warnings).toHaveLength(1);
  expect(overrides.warnings[0]).toMatch(/^Cannot use interface "/);
});

test("a warning stays on one short line when the value is long and wild", () => {
  const { warnings } = readPodOverrides({ [bypass]: "x\n".repeat(500) });
  expect(warnings[0]).not.toContain("\n");
  expect(warnings[0]?.length).toBeLessThan(200);
});

test("an interface name of 15 bytes is usable, of 16 is not", () => {
  expect(interfaceNameFault("a".repeat(15))).toBeUndefined();
  expect(interfaceNameFault("a".repeat(16))).toBe("longer than 15 bytes");
});

test("one annotation cannot ask for rules without bound", () => {
  const names = Array.from({ length: 20_000 }, (_, index) => `tap${index}`);
  const { virtualInterfaces, warnings } = readPodOverrides({ [reroute]: names.join(",") });
  expect(virtualInterfaces).toEqual(names.slice(0, 64));
  expect(warnings).toEqual([expect.stringMatching(/all 20000 interfaces .* only the first 64/)]);
});

/** Facts of a pod whose API object has these annotations. */
function podWith(annotations: Record<string, string>) {
  return toPodFacts({
    metadata: { uid: "u", namespace: "s", name: "n", resourceVersion: "1", annotations },
  })!;
}

/** As much as Kubernetes takes of all annotations of an object together. */
const whole = 256 << 10;

test.each([
  ["unusable names", "!,".repeat(whole / 2)],
  ["one name", "a".repeat(whole)],
  ["commas", ",".repeat(whole)],
  ["distinct names", Array.from({ length: 40_000 }, (_, index) => `t${index}`).join(",")],
  ["white space", " ".repeat(whole)],
  ["line breaks and ESC", "\n\u001b[2J".repeat(whole / 5)],
  ["wide characters", "😀".repeat(whole / 4)],
  ["half a character", "\ud800".repeat(whole / 3)],
])("an annotation of 256 KiB of %s is cut, warned about in few lines, and read once", (_, text) => {
  for (const name of Object.values(podAnnotations)) {
    const pod = podWith({ [name]: text });
    expect(Buffer.byteLength(pod.annotations[name] ?? "")).toBeLessThanOrEqual(2048);
    const overrides = podOverridesOf(pod);
    expect(overrides.virtualInterfaces.length).toBeLessThanOrEqual(64);
    expect(overrides.warnings.length).toBeGreaterThan(0);
    expect(overrides.warnings.length).toBeLessThanOrEqual(4);
    for (const warning of overrides.warnings) {
      expect(warning.length).toBeLessThan(250);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
      expect(warning).not.toMatch(/[\u0000-\u001f]/);
    }
    expect(podOverridesOf(pod)).toBe(overrides);
  }
});

test("of many unusable interfaces three are named and the others counted", () => {
  const { warnings } = podOverridesOf(podWith({ [reroute]: `net1,${"!,".repeat(100)}` }));
  expect(warnings).toHaveLength(4);
  expect(warnings.slice(0, 3).every((each) => each.startsWith('Cannot use interface "!"'))).toBe(true);
  expect(warnings[3]).toBe("Cannot use 97 more of the words in this pod's annotations");
});

test("a name that the bound cuts in two is not taken for another interface", () => {
  const list = Array.from({ length: 63 }, () => "same").join(",");
  const text = `${list},${" ".repeat(2048 - list.length - 8)}eth0123456,net9`;
  const { virtualInterfaces, warnings } = podOverridesOf(podWith({ [reroute]: text }));
  expect(virtualInterfaces).toEqual(["same"]);
  expect(warnings).toEqual([
    `Cannot use all of annotation ${reroute}: only its first 2048 bytes are read`,
    expect.stringMatching(/^Cannot use interface "eth.*…"/),
  ]);
});
