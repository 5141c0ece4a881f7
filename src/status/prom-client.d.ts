// SPDX-License-Identifier: Apache-2.0
// Types of the parts of prom-client that are loaded one by one: its main file also loads a push gateway's HTTP client,
// cluster support and default metrics, 14 MB of the agent's memory that nothing here uses.
declare module "prom-client/lib/registry.js" {
  import type { Registry } from "prom-client";

  const part: typeof Registry;
  export = part;
}
declare module "prom-client/lib/counter.js" {
  import type { Counter } from "prom-client";

  const part: typeof Counter;
  export = part;
}
declare module "prom-client/lib/gauge.js" {
  import type { Gauge } from "prom-client";

  const part: typeof Gauge;
  export = part;
}
declare module "prom-client/lib/histogram.js" {
  import type { Histogram } from "prom-client";

  const part: typeof Histogram;
  export = part;
}
