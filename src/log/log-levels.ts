// SPDX-License-Identifier: Apache-2.0
// Levels and scopes of the log, and istio-cni's names for several scopes.

/** Levels accepted by `LOG_LEVEL` and `--log_output_level`. */
export const logLevels = ["debug", "info", "warn", "error", "none"] as const;
export type LogLevel = (typeof logLevels)[number];

/** Levels of the agent: one default, and exceptions by scope (`cni`, `ztunnel`, `kube`, `enrolment`, …). */
export interface LogSettings {
  readonly level: LogLevel;
  readonly scopes: Readonly<Record<string, LogLevel>>;
  /** `LOG_FORMAT`; default `json`: one object a line. */
  readonly format?: "json" | "pretty";
}

/** Everything that the agent logs in. */
export const logScopes: readonly string[] = [
  "agent",
  "cni",
  "enrolment",
  "install",
  "kube",
  "netns",
  "probes",
  "redirect",
  "repair",
  "ztunnel",
];

/** istio-cni's plugin logs through its agent; here the agent itself logs what calls of the plugin are about. */
const ofPlugin = "cni";

/**
 * The scopes that a name stands for: `all`, `cni-agent`, `cni-plugin`, or one scope; undefined for a name of none of `known`.
 * Source: istio/istio cni/pkg/scopes; pkg/log OverrideScopeName.
 */
export function scopesNamed(
  name: string,
  known: readonly string[] = logScopes,
): readonly string[] | undefined {
  if (name === "all") return known;
  if (name === "cni-agent") return known.filter((scope) => scope !== ofPlugin);
  if (name === "cni-plugin") return [ofPlugin];
  return known.includes(name) ? [name] : undefined;
}

/**
 * Levels with one of them changed. `default` is the level of every scope that has none of its own, and `all` takes those away.
 * @param level `undefined`: the default again
 * @returns undefined for a scope that is not known
 */
export function withLevel(
  settings: LogSettings,
  { scope, level, known }: { scope: string; level: LogLevel | undefined; known?: readonly string[] },
): LogSettings | undefined {
  if (scope === "default") return { ...settings, level: level ?? settings.level };
  const named = scopesNamed(scope, known);
  if (named === undefined) return undefined;
  if (scope === "all") return { ...settings, level: level ?? settings.level, scopes: {} };
  const others = Object.entries(settings.scopes).filter(([name]) => !named.includes(name));
  const changed = level === undefined ? [] : named.map((name) => [name, level] as const);
  return { ...settings, scopes: Object.fromEntries([...others, ...changed]) };
}
