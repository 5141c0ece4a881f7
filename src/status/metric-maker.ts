// SPDX-License-Identifier: Apache-2.0
// Makes prom-client's metrics, of the few parts of it that the agent loads.
import type * as prom from "prom-client";
import Counter from "prom-client/lib/counter.js";
import Gauge from "prom-client/lib/gauge.js";
import Histogram from "prom-client/lib/histogram.js";
import Registry from "prom-client/lib/registry.js";

/** Content type of a registry's text. */
export const METRICS_CONTENT_TYPE: string = Registry.PROMETHEUS_CONTENT_TYPE;

export interface MetricDefinition {
  readonly help: string;
  /** Names of labels, each with the values known from the start: a counter that is not there yet has no rate. */
  readonly labels?: Readonly<Record<string, readonly string[]>>;
}

/** Makes metrics of one registry. */
export class MetricMaker {
  readonly #registry = new Registry();

  /** Everything made so far, as Prometheus reads it. */
  render(): Promise<string> {
    return this.#registry.metrics();
  }

  /** A counter; given values of labels start at 0. */
  counter(name: string, { help, labels = {} }: MetricDefinition): prom.Counter {
    const counter = new Counter({
      name,
      help,
      labelNames: Object.keys(labels),
      registers: [this.#registry],
    });
    for (const values of combinations(labels)) counter.inc(values, 0);
    return counter;
  }

  gauge(name: string, help: string, labelNames: readonly string[] = []): prom.Gauge {
    return new Gauge({ name, help, labelNames: [...labelNames], registers: [this.#registry] });
  }

  histogram(
    name: string,
    definition: MetricDefinition & { readonly buckets: readonly number[] },
  ): prom.Histogram {
    const { help, labels = {}, buckets } = definition;
    const histogram = new Histogram({
      name,
      help,
      labelNames: Object.keys(labels),
      buckets: [...buckets],
      registers: [this.#registry],
    });
    for (const values of combinations(labels)) histogram.zero(values);
    return histogram;
  }
}

function combinations(labels: Readonly<Record<string, readonly string[]>>): Record<string, string>[] {
  return Object.entries(labels).reduce<Record<string, string>[]>(
    (sets, [name, values]) => sets.flatMap((set) => values.map((value) => ({ ...set, [name]: value }))),
    [{}],
  );
}
