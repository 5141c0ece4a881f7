// SPDX-License-Identifier: Apache-2.0
// One line of a watch: an event, or the error the server ends the watch with.
import { type AskedFor, errorOfStatus } from "./api-error.ts";
import { badJson } from "./http-exchange.ts";
import { recordOf } from "./json-fields.ts";

/** One event of a watch; BOOKMARK objects carry only a resourceVersion. */
export interface WatchEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  readonly object: unknown;
}

/** Reads one line. @throws ApiError for ERROR events, Error with code BAD_RESPONSE for what is no event */
export function parseWatchEvent(line: string, asked: AskedFor): WatchEvent {
  const { type, object } = parseLine(line);
  switch (type) {
    case "ADDED":
    case "MODIFIED":
    case "DELETED":
    case "BOOKMARK":
      return { type, object };
    case "ERROR":
      throw errorOfStatus(asked, object);
    default:
      throw badJson(new Error(`unknown event type ${JSON.stringify(type)}`));
  }
}

function parseLine(line: string): Readonly<Record<string, unknown>> {
  try {
    return recordOf(JSON.parse(line));
  } catch (error) {
    throw badJson(error);
  }
}
