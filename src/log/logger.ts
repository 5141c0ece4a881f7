// SPDX-License-Identifier: Apache-2.0
// The agent's logger: pino, one logger per scope, istio-cni's level flags, levels that change at run time.
import { type DestinationStream, pino } from "pino";
import { renderPrettyLine } from "./log-pretty.ts";
import { type LoggedLine, LogRing } from "./log-ring.ts";

/**
 * What the parts of the agent log through; fields first, then one plain sentence. Names of fields that mean the same
 * everywhere: `ns`, `pod`, `uid`, `netns` (dev:ino), `step`, `ms`, `reason`, `err`.
 */
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
  /** `LOG_FORMAT`; default `json`: one object a line. */
  readonly format?: "json" | "pretty";
}

/** Gives each part of the agent its logger. */
export interface LoggerFactory {
  scope(name: string): Logger;
  /** Levels as they are now. */
  levels(): LogSettings;
  /**
   * Changes levels from the next line on.
   * @param scope a scope, or `default`
   * @param level `undefined` gives a scope the default level again
   * @throws RangeError for a scope that nothing logs in, and for a default that is taken away
   */
  setLevel(scope: string, level: LogLevel | undefined): void;
  /** The last lines, also those of levels that are not written. */
  readonly ring: LogRing;
}

export interface LoggerOptions {
  /** Default: standard output. */
  readonly destination?: DestinationStream;
  /** Default: one with its default limits. */
  readonly ring?: LogRing;
}

type LineLevel = LoggedLine["level"];
type Write = (line: LoggedLine) => void;

/**
 * Creates the root of all loggers.
 * Output is synchronous, so that the last lines before a crash are there to read.
 */
export function createLoggers(settings: LogSettings, options: LoggerOptions = {}): LoggerFactory {
  const destination = options.destination ?? standardOutput();
  return new Loggers(settings, {
    write: settings.format === "pretty" ? prettyWriter(destination) : jsonWriter(destination),
    ring: options.ring ?? new LogRing(),
  });
}

/** A line that cannot be written (the disk behind a redirected output is full) must not end the agent. */
function standardOutput(): DestinationStream {
  const destination = pino.destination({ dest: 1, sync: true });
  destination.on("error", () => {});
  return destination;
}

class Loggers implements LoggerFactory {
  readonly ring: LogRing;
  readonly #write: Write;
  readonly #known = new Set<string>();
  readonly #exceptions: Map<string, LogLevel>;
  readonly #format: LogSettings["format"];
  #default: LogLevel;

  constructor(settings: LogSettings, { write, ring }: { write: Write; ring: LogRing }) {
    this.#default = settings.level;
    this.#exceptions = new Map(Object.entries(settings.scopes));
    this.#format = settings.format;
    this.#write = write;
    this.ring = ring;
  }

  scope(name: string): Logger {
    this.#known.add(name);
    const at =
      (level: LineLevel) =>
      (fields: object, message: string): void =>
        this.#log({ level, scope: name, fields, message });
    return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  }

  levels(): LogSettings {
    const format = this.#format === undefined ? {} : { format: this.#format };
    return { level: this.#default, scopes: Object.fromEntries(this.#exceptions), ...format };
  }

  setLevel(scope: string, level: LogLevel | undefined): void {
    if (scope === "default") {
      if (level === undefined) throw new RangeError('Cannot change log level "default": it must have one');
      this.#default = level;
    } else if (this.#known.has(scope) || this.#exceptions.has(scope)) {
      if (level === undefined) this.#exceptions.delete(scope);
      else this.#exceptions.set(scope, level);
    } else {
      const known = [...this.#known].sort().join(", ");
      throw new RangeError(`Cannot change log level "${scope}": no such scope (known: default, ${known})`);
    }
  }

  #log(line: LoggedLine): void {
    const threshold = this.#exceptions.get(line.scope) ?? this.#default;
    const isWritten = logLevels.indexOf(line.level) >= logLevels.indexOf(threshold);
    if (isWritten) this.#write(line);
    if (isWritten || line.level !== "debug") this.ring.note(line);
  }
}

function jsonWriter(destination: DestinationStream): Write {
  const root = pino(
    {
      base: null,
      level: "debug",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: pino.stdSerializers.err },
    },
    destination,
  );
  const scopes = new Map<string, Logger>();
  return ({ level, scope, fields, message }) => {
    let logger = scopes.get(scope);
    if (logger === undefined) {
      logger = root.child({ scope });
      scopes.set(scope, logger);
    }
    logger[level](fields, message);
  };
}

function prettyWriter(destination: DestinationStream): Write {
  return (line) => destination.write(renderPrettyLine(line, new Date()));
}

/** A logger that drops everything, for parts used outside the agent. */
export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
};
