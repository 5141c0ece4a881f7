// SPDX-License-Identifier: Apache-2.0
// A sidecar's rules against golden text for each set of options and family.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { normaliseRule } from "../../src/netfilter/rule-tokens.ts";
import { renderNativeSidecarText } from "../../src/redirection/native-sidecar.ts";
import { sidecarAnnotations, sidecarOptionsOf } from "../../src/redirection/sidecar-options.ts";
import { SIDECAR_CHAINS, SIDECAR_TABLE_NAMES } from "../../src/redirection/sidecar-rule.ts";
import { sidecarRules } from "../../src/redirection/sidecar-rules.ts";
import { REDIRECT_TABLES } from "../../src/redirection/told-redirection.ts";
import {
  renderSidecarText,
  SIDECAR_TABLES,
  toldSidecar,
  wantedSidecar,
} from "../../src/redirection/told-sidecar.ts";
import { SIDECAR_VARIANTS } from "./sidecar-variants.ts";
import { FAMILIES } from "./variants.ts";

const cases = Object.entries(SIDECAR_VARIANTS).flatMap(([name, options]) =>
  FAMILIES.map((family) => ({ name, options, family })),
);

test.each(cases)("$name v$family renders its golden text", ({ name, options, family }) => {
  const golden = readFileSync(new URL(`golden-sidecar/${name}.v${family}.rules`, import.meta.url), "utf8");
  expect(renderSidecarText(options, family)).toBe(golden);
});

const nativeCases = Object.entries(SIDECAR_VARIANTS).flatMap(([name, options]) => [
  { name, options, form: "v4", families: [4] as const },
  { name, options, form: "dual", families: FAMILIES },
]);

test.each(nativeCases)("$name $form renders its golden text of nft", ({ name, options, form, families }) => {
  const golden = readFileSync(new URL(`golden-sidecar/${name}.${form}.nft`, import.meta.url), "utf8");
  expect(renderNativeSidecarText(options, families)).toBe(golden);
});

test("a range of all addresses of a family is that family, natively too", () => {
  const includeOutboundCidrs = ["0.0.0.0/0", "::/0"];
  const text = renderNativeSidecarText({ ...SIDECAR_VARIANTS.basic!, includeOutboundCidrs }, FAMILIES);
  expect(text).toContain("\t\tmeta nfproto ipv4 counter jump istio-redirect\n");
  expect(text).toContain("\t\tmeta nfproto ipv6 counter jump istio-redirect\n");
});

test("a family's own ranges stand before what is the same for both, however many the other has", () => {
  const excludeOutboundCidrs = ["192.0.2.0/25", "198.51.100.0/24", "203.0.113.0/24"];
  const text = renderNativeSidecarText({ ...SIDECAR_VARIANTS.basic!, excludeOutboundCidrs }, FAMILIES);
  const rules = text
    .slice(text.indexOf("ip6 daddr ::1 counter return"))
    .split("\n", 5)
    .map((line) => line.trim());
  expect(rules.slice(1)).toEqual([
    ...excludeOutboundCidrs.map((range) => `ip daddr ${range} counter return`),
    "counter jump istio-redirect",
  ]);
});

describe.each(cases)("the rules of $name v$family", ({ options, family }) => {
  const rules = sidecarRules(options, family);

  test("are written as the kernel's programs show them", () => {
    // the order of matches is the kernel's, so it is told as it is shown
    const whole = family === 4 ? /\/32$/ : /\/128$/;
    for (const { args } of rules)
      expect(normaliseRule(args).join(" ")).toBe(args.map((word) => word.replace(whole, "")).join(" "));
  });

  test("jump only into chains of their own table that are told, and each such chain is jumped to", () => {
    const told = toldSidecar(options, [family]);
    for (const table of SIDECAR_TABLE_NAMES) {
      const own = told.own.find((each) => each.family === family && each.table === table)!;
      if (!told.wanted.some((each) => each.table === table)) {
        expect(rules.filter((rule) => rule.table === table)).toEqual([]);
        continue;
      }
      const targets = new Set(
        rules.flatMap((rule) => {
          const target = rule.args[rule.args.indexOf("-j") + 1] ?? "";
          return rule.table === table && target.startsWith("ISTIO_") ? [target] : [];
        }),
      );
      expect(own.chains.filter(({ hook }) => hook !== undefined)).toEqual(
        SIDECAR_CHAINS[table].filter(({ hook }) => hook !== undefined),
      );
      const inner = own.chains.filter(({ hook }) => hook === undefined).map(({ chain }) => chain);
      expect([...targets].filter((target) => !inner.includes(target))).toEqual([]);
      // what the proxy sends to the app may be inbound in any mode; the others are there to be used
      const unused = inner.filter((chain) => !targets.has(chain));
      expect(unused.every((chain) => chain === "ISTIO_REDIRECT")).toBe(true);
    }
  });

  test("each say what they are for", () => {
    for (const { comment } of rules) expect(comment.length).toBeGreaterThan(15);
  });
});

test("the key follows the rules, and not what is asked of the namespace", () => {
  const key = (options: (typeof cases)[number]["options"]) =>
    wantedSidecar(options, { families: [4], known: [4, 6] }).key;
  const keys = Object.values(SIDECAR_VARIANTS).map(key);
  expect(new Set(keys).size).toBe(keys.length);
  const { basic } = SIDECAR_VARIANTS;
  expect(key({ ...basic!, dualStack: true })).toBe(key(basic!));
});

test("no chain but nat's ISTIO_OUTPUT has the name of one of ambient mode's in its table", () => {
  const ambient = REDIRECT_TABLES.flatMap(({ table, chains }) =>
    chains.map(({ chain }) => `${table} ${chain}`),
  );
  const shared = SIDECAR_TABLES.flatMap(({ table, chains }) =>
    chains.map(({ chain }) => `${table} ${chain}`),
  ).filter((each) => ambient.includes(each));
  expect(new Set(shared)).toEqual(new Set(["nat ISTIO_OUTPUT"]));
  expect(Object.keys(SIDECAR_CHAINS)).toEqual(["mangle", "nat", "raw"]);
});

test("more rules than are told apart in a chain are refused before any is written", () => {
  const annotations = {
    [sidecarAnnotations.excludeOutboundPorts]: Array.from({ length: 127 }, (_, index) => index).join(","),
  };
  const proxy = { dnsCapture: false, dualStack: false, dropInvalid: false };
  const options = sidecarOptionsOf(annotations, proxy);
  expect(() => sidecarRules(options, 4)).toThrow(
    /^Cannot redirect with more than 256 rules in ISTIO_OUTPUT of table nat: .*; name fewer/,
  );
  expect(
    sidecarRules({ ...options, excludeOutboundPorts: options.excludeOutboundPorts.slice(0, 120) }, 4),
  ).not.toHaveLength(0);
});
