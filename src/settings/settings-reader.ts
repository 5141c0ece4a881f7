// SPDX-License-Identifier: Apache-2.0
// Single settings: text becomes a value. What istio-cni takes is taken as it takes it; what nobody can follow has something in its place.
import { isIPv4 } from "node:net";
import { isAbsolute, resolve } from "node:path";
import { parseGoBool } from "../kube/json-fields.ts";

/** Settings by name, as an environment has them. */
export type Settings = Readonly<Record<string, string | undefined>>;

/** One setting that cannot be followed. */
export interface SettingFault {
  readonly name: string;
  readonly value: string;
  /** What is wrong with it, and what is done instead. */
  readonly reason: string;
}

/** Reads settings by name: options of the command line before the environment. A text that is empty counts as not given. */
export class SettingsReader {
  /** Cannot be followed: something else stands in their place. */
  readonly faults: SettingFault[] = [];
  /** Cannot be followed, and nothing can stand in their place. */
  readonly blockers: SettingFault[] = [];
  /** Followed in another way than their text says. */
  readonly warnings: string[] = [];
  readonly #env: Settings;
  readonly #options: Settings;
  readonly #asked = new Set<string>();

  constructor(env: Settings, options: Settings = {}) {
    this.#env = env;
    this.#options = options;
  }

  /** Names of options that nobody has asked for. */
  get unknownOptions(): string[] {
    return Object.keys(this.#options).filter((name) => !this.#asked.has(name));
  }

  /** @param used what stands in its place */
  fault(name: string, reason: string, used: string | number): void {
    this.faults.push({
      name,
      value: this.#given(name) ?? "",
      reason: `${reason}; "${used}" is used instead`,
    });
  }

  block(name: string, reason: string): void {
    this.blockers.push({ name, value: this.#given(name) ?? "", reason });
  }

  warn(name: string, what: string): void {
    this.warnings.push(`${name}="${this.#given(name) ?? ""}": ${what}`);
  }

  text(name: string, fallback: string): string {
    const value = this.#given(name);
    return value === undefined || value === "" ? fallback : value;
  }

  /** A text that may be empty on purpose. Source: github.com/spf13/viper GetString, AllowEmptyEnv. */
  anyText(name: string, fallback: string): string {
    return this.#given(name) ?? fallback;
  }

  /** What can be given on the command line only. */
  option(name: string): string | undefined {
    this.#asked.add(name);
    return this.#options[name];
  }

  /** A relative one counts from the root, as the working folder of istio-cni's container is. */
  path(name: string, fallback: string): string {
    const value = this.text(name, fallback);
    if (!isAbsolute(value)) this.warn(name, `is no absolute path: "${resolve("/", value)}" is used`);
    return resolve("/", value);
  }

  /** What is no boolean counts as false, an empty text too. Source: github.com/spf13/viper GetBool, AllowEmptyEnv. */
  flag(name: string, fallback: boolean): boolean {
    const value = this.#given(name);
    if (value === undefined) return fallback;
    const parsed = parseGoBool(value);
    if (parsed === undefined)
      this.warn(name, "is neither true nor false: counts as false, as with istio-cni");
    return parsed ?? false;
  }

  /** A port that may be left out: 0, less, and what is no port. Source: istio/istio cni/pkg/monitoring SetupMonitoring. */
  portIfAny(name: string, fallback: number): number | undefined {
    const value = this.text(name, String(fallback));
    const port = /^[+-]?\d+$/.test(value) ? Number(value) : Number.NaN;
    if (port >= 1 && port <= 65535) return port;
    if (!(port <= 0)) this.warn(name, "is no port: there is none, as with istio-cni");
    return undefined;
  }

  integer(name: string, range: { fallback: number; min: number; max: number }): number {
    const value = this.text(name, String(range.fallback));
    const parsed = Number(value);
    if (/^\d+$/.test(value) && parsed >= range.min && parsed <= range.max) return parsed;
    this.fault(name, `must be a whole number from ${range.min} to ${range.max}`, range.fallback);
    return range.fallback;
  }

  choice<const T extends string>(name: string, allowed: readonly T[], fallback: T): T {
    const value = this.text(name, fallback);
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) this.fault(name, `must be one of ${allowed.join(", ")}`, fallback);
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
    if (isAddress(value)) return value;
    this.fault(name, `must be an ${isAddress === isIPv4 ? "IPv4" : "IPv6"} address`, fallback);
    return fallback;
  }

  #given(name: string): string | undefined {
    this.#asked.add(name);
    return (this.#options[name] ?? this.#env[name])?.trim();
  }
}
