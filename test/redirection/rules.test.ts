// SPDX-License-Identifier: Apache-2.0
// The rules as data and as restore text, against golden text for each variant and family.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  isInterfaceName,
  RedirectOptionsError,
  redirectRules,
  redirectTables,
  redirectVariantKey,
} from "../../src/redirection/rules.ts";
import { renderRedirectText } from "../../src/redirection/told-redirection.ts";
import { DEFAULT_OPTIONS, FAMILIES, VARIANTS } from "./variants.ts";

describe("redirection rules", () => {
  const cases = Object.entries(VARIANTS).flatMap(([name, options]) =>
    FAMILIES.map((family) => ({ name, options, family })),
  );

  test.each(cases)("$name v$family renders its golden text", ({ name, options, family }) => {
    const golden = readFileSync(new URL(`golden/${name}.v${family}.rules`, import.meta.url), "utf8");
    expect(renderRedirectText(options, family)).toBe(golden);
  });

  const pairs = cases.filter(({ name }) => !name.startsWith("reset-"));

  test.each(pairs)("$name v$family differs from istio's own by matching SYN alone", ({ options, family }) => {
    const text = renderRedirectText(options, family);
    const syn = " --tcp-flags FIN,SYN,RST,ACK SYN";
    expect(text.split(syn).length - 1).toBe(options.ingressMode ? 1 : 2);
    expect(text.replaceAll(syn, "")).toBe(
      renderRedirectText({ ...options, establishedConnections: "reset" }, family),
    );
    expect(renderRedirectText({ ...options, establishedConnections: "keep" }, family)).toBe(text);
  });

  test("raw is used only when DNS is captured", () => {
    expect(redirectTables(VARIANTS.default!)).toEqual(["mangle", "nat", "raw"]);
    expect(redirectTables(VARIANTS["no-dns"]!)).toEqual(["mangle", "nat"]);
    expect(redirectRules(VARIANTS["no-dns"]!, 4).filter((rule) => rule.table === "raw")).toEqual([]);
  });

  test("the connection mark is set in ingress mode too", () => {
    const rules = redirectRules(VARIANTS.ingress!, 4);
    expect(rules.filter((rule) => rule.table === "mangle" && rule.chain === "ISTIO_PRERT")).toHaveLength(1);
    expect(rules.filter((rule) => rule.table === "nat" && rule.chain === "ISTIO_PRERT")).toEqual([]);
  });

  test("every rule says what it is for", () => {
    for (const rule of redirectRules(VARIANTS["virtual-interfaces"]!, 6)) {
      expect(rule.comment.length).toBeGreaterThan(20);
    }
  });

  test("every variant and family has a key of its own, which follows the rules", () => {
    const keys = cases.map(({ options, family }) => redirectVariantKey(options, family));
    expect(new Set(keys).size).toBe(cases.length);
    expect(redirectVariantKey({ ...DEFAULT_OPTIONS, probeSnatV6: "fd00::1" }, 4)).toBe(
      redirectVariantKey(DEFAULT_OPTIONS, 4),
    );
    expect(redirectVariantKey({ ...DEFAULT_OPTIONS, probeSnatV4: "169.254.7.1" }, 4)).not.toBe(
      redirectVariantKey(DEFAULT_OPTIONS, 4),
    );
  });

  test.each([
    ["eth0", true],
    ["k6t-eth0", true],
    ["vnet1.100", true],
    ["tap+", true],
    ["veth@if3", true],
    ["_x", true],
    ["fifteen-chars-x", true],
    ["sixteen-chars-xx", false],
    ["", false],
    ["+", false],
    ["-j", false],
    ["!", false],
    ["..", false],
    ["a b", false],
    ["a/b", false],
    ["a:1", false],
    ["eth0\n-A FORWARD", false],
    ["eth0\n", false],
    ['eth"0', false],
    ["ünet", false],
  ])("interface name %j is accepted: %j", (name, accepted) => {
    expect(isInterfaceName(name)).toBe(accepted);
    const options = { ...DEFAULT_OPTIONS, virtualInterfaces: [name] };
    if (accepted) expect(renderRedirectText(options, 4)).toContain(`-i ${name} -p tcp -j RETURN\n`);
    else expect(() => renderRedirectText(options, 4)).toThrow(RedirectOptionsError);
  });

  test.each([
    [4, { probeSnatV4: "fd00::1" }, "HOST_PROBE_SNAT_IP"],
    [4, { probeSnatV4: "169.254.7.127/32" }, "HOST_PROBE_SNAT_IP"],
    [6, { probeSnatV6: "" }, "HOST_PROBE_SNAT_IPV6"],
    [6, { probeSnatV6: "169.254.7.127" }, "HOST_PROBE_SNAT_IPV6"],
  ] as const)(
    "a probe address of the wrong kind is refused with the setting's name (v%s %j)",
    (family, wrong, name) => {
      expect(() => redirectRules({ ...DEFAULT_OPTIONS, ...wrong }, family)).toThrow(`correct ${name}`);
    },
  );
});
