// SPDX-License-Identifier: Apache-2.0
// Single settings: text becomes a checked value, or a fault with its reason.
import { isIPv4 } from "node:net";
import { resolve } from "node:path";

/** Settings by name, as an environment has them. */
export type Settings = Readonly<Record<string, string | undefined>>;

/** One setting that cannot be used. */
export interface ConfigFault {
  readonly name: string;
  readonly value: string;
  readonly reason: string;
}

/** All faults of a configuration in one report, a line each. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly faults: readonly ConfigFault[];

  constructor(faults: readonly ConfigFault[]) {
    const lines = faults.map((fault) => `  ${fault.name}="${fault.value}": ${fault.reason}`);
    super(`Cannot start with this configuration:\n${lines.join("\n")}`);
    this.faults = faults;
  }
}

/** Go's strconv.ParseBool. Source: https://pkg.go.dev/strconv#ParseBool */
const booleans: Readonly<Record<string, boolean>> = {
  "1": true,
  t: true,
  T: true,
  TRUE: true,
  true: true,
  True: true,
  "0": false,
  f: false,
  F: false,
  FALSE: false,
  false: false,
  False: false,
};

/** Reads settings by name and collects what is wrong with them. An empty value counts as not given, as a Helm chart writes it. */
export class SettingsReader {
  readonly faults: ConfigFault[] = [];
  readonly #env: Settings;

  constructor(env: Settings) {
    this.#env = env;
  }

  fault(name: string, reason: string): void {
    this.faults.push({ name, value: this.#env[name] ?? "", reason });
  }

  text(name: string, fallback: string): string {
    const value = this.#env[name]?.trim();
    return value === undefined || value === "" ? fallback : value;
  }

  path(name: string, fallback: string): string {
    const value = this.text(name, fallback);
    if (!value.startsWith("/")) this.fault(name, "must be an absolute path");
    return resolve("/", value);
  }

  fileName(name: string, fallback: string): string {
    const value = this.text(name, fallback);
    if (value.includes("/")) this.fault(name, "must be the name of a file, without a folder");
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.text(name, String(fallback));
    const parsed = booleans[value];
    if (parsed === undefined) this.fault(name, "must be true or false");
    return parsed ?? fallback;
  }

  integer(name: string, range: { fallback: number; min: number; max: number }): number {
    const value = this.text(name, String(range.fallback));
    const parsed = Number(value);
    if (!/^\d+$/.test(value) || parsed < range.min || parsed > range.max) {
      this.fault(name, `must be a whole number from ${range.min} to ${range.max}`);
      return range.fallback;
    }
    return parsed;
  }

  choice<const T extends string>(name: string, allowed: readonly T[], fallback: T): T {
    const value = this.text(name, fallback);
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) this.fault(name, `must be one of ${allowed.join(", ")}`);
    return found ?? fallback;
  }

  list(name: string): string[] {
    return this.text(name, "")
      .split(",")
      .map((item) => item.trim())
      .filter((item) => item !== "");
  }

  address(name: string, fallback: string, isAddress: (text: string) => boolean): string {
    const value = this.text(name, fallback);
    if (!isAddress(value)) this.fault(name, `must be an ${isAddress === isIPv4 ? "IPv4" : "IPv6"} address`);
    return value;
  }
}
