// SPDX-License-Identifier: Apache-2.0
// Reads Prometheus' text format strictly: what a scraper would refuse is an error here.

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface MetricFamily {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

const samplePattern = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const labelPattern = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)/gy;

/** Families by name. Source: Prometheus documentation, "Exposition formats", text-based format. */
export function parsePrometheusText(text: string): Map<string, MetricFamily> {
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  const families = new Map<string, { name: string; type: string; help: string; samples: Sample[] }>();
  let help = "";
  let current: { name: string; samples: Sample[] } | undefined;
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const comment = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line);
    if (comment?.[1] === "HELP") help = comment[3] ?? "";
    else if (comment !== null) {
      const family = { name: comment[2] ?? "", type: comment[3] ?? "", help, samples: [] };
      if (families.has(family.name)) throw new Error(`"${family.name}" comes twice`);
      families.set(family.name, family);
      current = family;
    } else {
      const sample = parseSample(line);
      const base = sample.name.replace(/_(bucket|sum|count)$/, "");
      if (current === undefined || (sample.name !== current.name && base !== current.name))
        throw new Error(`"${line}" belongs to no family`);
      current.samples.push(sample);
    }
  }
  return families;
}

function parseSample(line: string): Sample {
  const [, name = "", labelText, valueText = ""] = samplePattern.exec(line) ?? [];
  if (name === "") throw new Error(`"${line}" is no sample`);
  const labels: Record<string, string> = {};
  let length = 0;
  for (const [whole, label = "", value = ""] of (labelText ?? "").matchAll(labelPattern)) {
    labels[label] = value;
    length += whole.length;
  }
  if (length !== (labelText ?? "").length) throw new Error(`"${line}" has labels that cannot be read`);
  const value = valueText === "+Inf" ? Number.POSITIVE_INFINITY : Number(valueText);
  if (Number.isNaN(value)) throw new Error(`"${line}" has no number`);
  return { name, labels, value };
}
