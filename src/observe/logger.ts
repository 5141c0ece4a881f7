// SPDX-License-Identifier: Apache-2.0
// The agent's logger: pino, with one child per scope and istio-cni's level flags.
import { type DestinationStream, pino } from "pino";

/** What the parts of the agent log through; fields first, then one plain sentence. */
export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Levels accepted by `LOG_LEVEL` and `--log_output_level`. */
export const logLevels = ["debug", "info", "warn", "error", "none"] as const;
export type LogLevel = (typeof logLevels)[number];

/** Levels of the agent: one default, and exceptions by scope (`cni`, `ztunnel`, `kube`, `enrolment`, …). */
export interface LogSettings {
  readonly level: LogLevel;
  readonly scopes: Readonly<Record<string, LogLevel>>;
}

/** Gives each part of the agent its logger. */
export interface LoggerFactory {
  scope(name: string): Logger;
}

function pinoLevel(level: LogLevel): string {
  return level === "none" ? "silent" : level;
}

/**
 * Creates the root of all loggers: one JSON object a line.
 * Output is synchronous, so that the last lines before a crash are there to read.
 */
export function createLoggers(settings: LogSettings, destination?: DestinationStream): LoggerFactory {
  const root = pino(
    {
      base: null,
      level: "debug",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: pino.stdSerializers.err },
    },
    destination ?? pino.destination({ dest: 1, sync: true }),
  );
  return {
    scope(name) {
      const level = settings.scopes[name] ?? settings.level;
      return root.child({ scope: name }, { level: pinoLevel(level) });
    },
  };
}

/** A logger that drops everything, for parts used outside the agent. */
export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
};
