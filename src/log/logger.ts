// SPDX-License-Identifier: Apache-2.0
// The agent's logger: pino, one logger per scope, istio-cni's level flags, levels that change at run time, lines for people or machines.
import { type DestinationStream, pino } from "pino";
import { boundedLine } from "./bounded-fields.ts";
import { type LogLevel, type LogSettings, logLevels, withLevel } from "./log-levels.ts";
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

export interface LoggerOptions {
  /** Default: standard output. */
  readonly destination?: DestinationStream;
}

type LineLevel = LoggedLine["level"];
type Write = (line: LoggedLine) => void;

/**
 * Creates the root of all loggers.
 * Output is synchronous, so that the last lines before a crash are there to read.
 */
export function createLoggers(settings: LogSettings, options: LoggerOptions = {}): LoggerFactory {
  const destination = options.destination ?? standardOutput();
  const pretty = (line: LoggedLine): void => destination.write(renderPrettyLine(line));
  return new LoggerFactory(settings, settings.format === "pretty" ? pretty : jsonWriter(destination));
}

/** A line that cannot be written (the disk behind a redirected output is full) must not end the agent. */
function standardOutput(): DestinationStream {
  const destination = pino.destination({ dest: 1, sync: true });
  destination.on("error", () => {});
  return destination;
}

/** Scopes and their new levels, see {@link LoggerFactory.setLevels}. */
export type WantedLevels = readonly (readonly [scope: string, level: LogLevel | undefined])[];

/** Gives each part of the agent its logger. */
export class LoggerFactory {
  /** The last lines, also those of levels that are not written. */
  readonly ring = new LogRing();
  readonly #write: Write;
  readonly #known = new Set<string>();
  #settings: LogSettings;

  constructor(settings: LogSettings, write: Write) {
    this.#settings = settings;
    this.#write = write;
  }

  scope(name: string): Logger {
    this.#known.add(name);
    const at =
      (level: LineLevel) =>
      (fields: object, message: string): void =>
        this.#log({ level, scope: name, fields, message });
    return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  }

  /** Levels as they are now. */
  levels(): LogSettings {
    return this.#settings;
  }

  /**
   * Changes levels from the next line on, all of them or none.
   * @param wanted scopes, `default`, `all`, or istio-cni's `cni-agent` and `cni-plugin`; `undefined` gives a scope the default level again
   * @throws RangeError for a scope that nothing logs in, and for a default that is taken away
   */
  setLevels(wanted: WantedLevels): void {
    let settings = this.#settings;
    for (const [scope, level] of wanted) {
      if (scope === "default" && level === undefined)
        throw new RangeError('Cannot change log level "default": it must have one');
      const known = [...new Set([...this.#known, ...Object.keys(settings.scopes)])];
      const changed = withLevel(settings, { scope, level, known });
      if (changed === undefined) {
        const names = [...this.#known].sort().join(", ");
        throw new RangeError(`Cannot change log level "${scope}": no such scope (known: default, ${names})`);
      }
      settings = changed;
    }
    this.#settings = settings;
  }

  #log(line: LoggedLine): void {
    const { scopes, level } = this.#settings;
    const threshold = (Object.hasOwn(scopes, line.scope) ? scopes[line.scope] : undefined) ?? level;
    const isWritten = logLevels.indexOf(line.level) >= logLevels.indexOf(threshold);
    if (!isWritten && line.level === "debug") return;
    const bounded = boundedLine(line);
    if (isWritten) this.#write(bounded);
    this.ring.note(bounded);
  }
}

function jsonWriter(destination: DestinationStream): Write {
  const root = pino(
    {
      base: null,
      level: "debug",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: withoutOurKeys },
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

/**
 * A field of a line never takes the place of the line's own: who reads JSON as Go does takes the last of two keys, in any case.
 * Source: istio/istio tools/bug-report/pkg/processlog parseJSONLog.
 */
function withoutOurKeys(fields: Record<string, unknown>): Record<string, unknown> {
  const isOurs = (key: string): boolean => ownKeys.has(key.toLowerCase());
  if (!Object.keys(fields).some(isOurs)) return fields;
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [isOurs(key) ? `field_${key}` : key, value]),
  );
}

const ownKeys: ReadonlySet<string> = new Set(["time", "level", "msg", "scope"]);

/** A logger that drops everything, for parts used outside the agent. */
export const silentLogger: Logger = {
  debug() {},
  info() {},
  warn() {},
  error() {},
};

/** One line: time, level, scope, message, then the fields; a stack follows indented where there is one and it is an error. */
function renderPrettyLine({ level, scope, fields, message }: LoggedLine): string {
  const { err, ...rest } = fields as { readonly err?: unknown } & Record<string, unknown>;
  const shown = Object.entries(rest).filter(([, value]) => value !== undefined);
  const words = shown.map(([name, value]) => `${escaped(name)}=${renderValue(value)}`);
  if (err !== undefined)
    words.push(`err=${JSON.stringify(err instanceof Error ? err.message : String(err))}`);
  const head = `${new Date().toISOString().slice(11, 23)} ${level.toUpperCase().padEnd(5)} ${scope.padEnd(9)} ${escaped(message)}`;
  const stack =
    level === "error" && err instanceof Error && err.stack !== undefined
      ? `\n${err.stack
          .split("\n")
          .map((each) => `    ${escaped(each)}`)
          .join("\n")}`
      : "";
  return `${[head, ...words].join("  ")}${stack}\n`;
}

/** Bare where that cannot be misread. */
function renderValue(value: unknown): string {
  if (typeof value === "string") return /^[\w.:/@+-]+$/.test(value) ? value : JSON.stringify(value);
  return typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? String(value));
}

/** A message can hold a pod's own words: no control character of it reaches a terminal. */
function escaped(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => JSON.stringify(character).slice(1, -1));
}
