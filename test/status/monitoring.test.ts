// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { AgentState } from "../../src/status/agent-state.ts";
import { FakeAgent, metricsOf } from "./fake-agent.ts";
import { type MetricFamily, parsePrometheusText } from "./prometheus-text.ts";

const folder = new URL("../../deploy/monitoring/", import.meta.url);
const dashboard = JSON.parse(readFileSync(new URL("dashboard.json", folder), "utf8")) as Dashboard;
const alerts = parse(readFileSync(new URL("alerts.yaml", folder), "utf8")) as Alerts;
const readme = readFileSync(new URL("README.md", folder), "utf8");

interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
  }[];
}
interface Alerts {
  readonly groups: readonly {
    readonly rules: readonly {
      readonly alert: string;
      readonly expr: string;
      readonly labels: Readonly<Record<string, string>>;
      readonly annotations: Readonly<Record<string, string>>;
    }[];
  }[];
}

const rules = alerts.groups.flatMap((group) => group.rules);
const queries = dashboard.panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ expr, legendFormat }) => ({ where: title, expr, legend: legendFormat })),
);
/** Labels that the scraper adds. */
const targetLabels = ["node", "instance", "job"];

let exposed: Map<string, MetricFamily>;

beforeAll(async () => {
  const agent = new FakeAgent();
  agent.add("web-0");
  agent.repairs.set("missing-rule", 1);
  agent.sidecarRecords.mended([{ kind: "missing-jump" }]);
  exposed = parsePrometheusText(await metricsOf(new AgentState(agent.facts())).render());
});

function labelsOf(family: MetricFamily): Set<string> {
  return new Set(family.samples.flatMap(({ labels }) => Object.keys(labels)));
}

/** Faults of a query: a name or label that is not exposed, a value of a label that never comes. */
function faultsOf(expr: string): string[] {
  const faults: string[] = [];
  const allowed = new Set(targetLabels);
  for (const [, name = "", matchers = ""] of expr.matchAll(
    /\b((?:ambient_cni|istio_cni|nodeagent|ztunnel|process)_\w+)(?:\{([^}]*)\})?/g,
  )) {
    const family =
      exposed.get(name) ??
      (exposed.get(name.replace(/_bucket$/, ""))?.type === "histogram"
        ? exposed.get(name.replace(/_bucket$/, ""))
        : undefined);
    if (family === undefined) {
      faults.push(`${name} is not exposed`);
      continue;
    }
    for (const label of labelsOf(family)) allowed.add(label);
    for (const [, label = "", operator = "", value = ""] of matchers.matchAll(
      /(\w+)(=~|!=|!~|=)"([^"]*)"/g,
    )) {
      if (targetLabels.includes(label)) continue;
      if (!labelsOf(family).has(label)) faults.push(`${name} has no label ${label}`);
      else if (operator === "=" || operator === "!=") {
        const values = family.samples.map(({ labels }) => labels[label]);
        if (!values.includes(value)) faults.push(`${name} never has ${label}="${value}"`);
      }
    }
  }
  for (const [, list = ""] of expr.matchAll(/\b(?:by|on|without) \(([^)]*)\)/g)) {
    for (const label of list.split(",").map((each) => each.trim())) {
      if (!allowed.has(label)) faults.push(`nothing in it has label ${label}`);
    }
  }
  return faults;
}

describe("dashboard", () => {
  test("asks only for what is exposed", () => {
    expect(queries.length).toBeGreaterThan(20);
    expect(queries.map(({ where, expr }) => [where, faultsOf(expr)])).toEqual(
      queries.map(({ where }) => [where, []]),
    );
  });

  test("names in its legends only labels that the query keeps", () => {
    for (const { where, expr, legend } of queries) {
      for (const [, label = ""] of legend.matchAll(/\{\{(\w+)\}\}/g)) expect(expr, where).toContain(label);
    }
  });

  test("has each panel once, with an id of its own", () => {
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe("alert rules", () => {
  test("ask only for what is exposed", () => {
    expect(rules.length).toBeGreaterThan(10);
    expect(rules.map(({ alert, expr }) => [alert, faultsOf(expr)])).toEqual(
      rules.map(({ alert }) => [alert, []]),
    );
  });

  test("have a severity, a summary, and a description with what to do", () => {
    for (const { alert, expr, labels, annotations } of rules) {
      expect(alert).toMatch(/^AmbientCni[A-Z]\w+$/);
      expect(["warning", "critical"]).toContain(labels.severity);
      expect(annotations.summary).toBeTruthy();
      expect(annotations.description).toMatch(/\.$/);
      for (const [, label = ""] of JSON.stringify(annotations).matchAll(/\$labels\.(\w+)/g))
        expect(expr, `${alert} uses ${label}`).toMatch(new RegExp(`by \\([^)]*\\b${label}\\b`));
    }
  });
});

describe("the check itself", () => {
  test.each([
    ["ambient_cni_podz", "is not exposed"],
    ['ambient_cni_pods{color="red"}', "has no label color"],
    ['ambient_cni_pods{state="happy"}', 'never has state="happy"'],
    ["sum by (colour) (ambient_cni_pods)", "has label colour"],
    ["ambient_cni_pods_bucket", "is not exposed"],
  ])("finds the fault of %s", (expr, fault) => {
    expect(faultsOf(expr).join()).toContain(fault);
  });
});

describe("README", () => {
  const documented = [...readme.matchAll(/^\| `(\w+)`\s*\| (\w+)\s*\| ([^|]*)\|/gm)].map(
    ([, name = "", type = "", labels = ""]) => ({
      name,
      type,
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = ""]) => label),
    }),
  );

  test("documents every metric with its type and labels, and none that is not there", () => {
    const found = [...exposed.values()].map((family) => ({
      name: family.name,
      type: family.type,
      labels: [...labelsOf(family)].filter((label) => label !== "le").sort(),
    }));
    const sorted = documented.map((each) => ({ ...each, labels: each.labels.toSorted() }));
    const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
    expect(sorted.sort(byName)).toEqual(found.sort(byName));
  });
});
