// SPDX-License-Identifier: Apache-2.0
// Labels of an object as far as they can be labels. Pure.
import { fits } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import type { Labels } from "./label-selector.ts";
import { FirstFields } from "./pick-fields.ts";

/** What counts, and in a sentence what does not. */
export interface BoundedLabels {
  readonly labels: Labels;
  /** Empty where all of them count. */
  readonly excess: readonly string[];
}

/** What {@link boundedLabels} asks for: one more than count, so that it is told. */
export const labelFields = new FirstFields(bounds.labels.count + 1, decides);

/** Takes the texts of `metadata.labels`; where there are too many, those that decide about the mesh come first. */
export function boundedLabels(raw: Readonly<Record<string, unknown>>): BoundedLabels {
  const { count } = bounds.labels;
  const all = Object.keys(raw);
  const keys = all.length <= count ? all : [...all.filter(decides), ...all.filter((key) => !decides(key))];
  const labels: Record<string, string> = {};
  for (const key of keys.slice(0, count)) {
    const value = raw[key];
    if (typeof value !== "string" || !fits(key, bounds.labelKey) || !fits(value, bounds.labelValue)) continue;
    labels[key] = value;
  }
  const excess = all.length <= count ? [] : [`Cannot use all of its labels: only ${count} count`];
  return { labels, excess };
}

function decides(key: string): boolean {
  return key === "app" || /^(?:[a-z0-9.-]+\.)?istio\.io\//.test(key);
}
