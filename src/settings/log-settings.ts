// SPDX-License-Identifier: Apache-2.0
// Levels of the log as istio-cni's options write them; what cannot be followed is said and left out.
import { type LogLevel, type LogSettings, logLevels, withLevel } from "../log/log-levels.ts";
import type { SettingsReader } from "./settings-reader.ts";

/** Words of others for our levels. */
const otherWords: Readonly<Record<string, LogLevel>> = {
  fatal: "error",
  panic: "error",
  err: "error",
  critical: "error",
  warning: "warn",
  notice: "info",
  trace: "debug",
  off: "none",
};

/** Reads LOG_LEVEL, `--log_output_level=[SCOPE:]LEVEL,…`, LOG_FORMAT, and `--log_as_json`, which wins over it. */
export function readLogSettings(reader: SettingsReader): LogSettings {
  const word = reader.text("LOG_LEVEL", "info");
  const level = levelOf(word);
  if (level === undefined)
    reader.warn("LOG_LEVEL", `is no level (known: ${logLevels.join(", ")}): "info" is used`);
  let settings: LogSettings = { level: level ?? "info", scopes: {} };
  for (const item of (reader.option("LOG_OUTPUT_LEVEL") ?? "").split(",").filter((part) => part !== "")) {
    settings = withItem(reader, settings, item);
  }
  const isJson = !["", "0", "f", "false"].includes((reader.option("LOG_AS_JSON") ?? "").toLowerCase());
  const format = reader.choice("LOG_FORMAT", ["json", "pretty"], "json");
  return format === "pretty" && !isJson ? { ...settings, format } : settings;
}

function withItem(reader: SettingsReader, settings: LogSettings, item: string): LogSettings {
  const parts = item.trim().split(":");
  const [scope = "", word = ""] = parts.length === 1 ? ["default", parts[0]] : parts;
  const level = levelOf(word);
  if (level === undefined || parts.length > 2) {
    reader.warnings.push(
      `--log_output_level: "${item}" is left out: it must be LEVEL or SCOPE:LEVEL with LEVEL one of ${logLevels.join(", ")}`,
    );
    return settings;
  }
  const changed = withLevel(settings, { scope, level });
  if (changed === undefined)
    reader.warnings.push(`--log_output_level: "${item}" is left out: nothing logs in that scope`);
  return changed ?? settings;
}

function levelOf(word: string): LogLevel | undefined {
  const lower = word.toLowerCase();
  const own = logLevels.find((candidate) => candidate === lower);
  return own ?? (Object.hasOwn(otherWords, lower) ? otherWords[lower] : undefined);
}
