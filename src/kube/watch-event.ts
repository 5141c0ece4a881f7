// SPDX-License-Identifier: Apache-2.0
// One line of a watch: an event, or the error the server ends the watch with.
import { cutText } from "../bounds/bounded.ts";
import { bounds } from "../bounds/bounds.ts";
import { type AskedFor, errorOfStatus } from "./api-error.ts";
import { badJson } from "./http-exchange.ts";
import { recordOf } from "./json-fields.ts";
import { type Fields, pickFields } from "./pick-fields.ts";

/** One event of a watch; BOOKMARK objects carry only a resourceVersion. */
export interface WatchEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  readonly object: unknown;
}

/** What a Status says, in the place of an object. */
const statusFields: Fields = { code: true, reason: true, message: true, details: true };

/** Reads one line, and of its object these fields. @throws ApiError for ERROR events, Error with code BAD_RESPONSE for what is no event */
export function parseWatchEvent(
  line: Buffer,
  { asked, fields }: { readonly asked: AskedFor; readonly fields: Fields | undefined },
): WatchEvent {
  const { type, object } = parseLine(line, fields === undefined ? true : { ...fields, ...statusFields });
  switch (type) {
    case "ADDED":
    case "MODIFIED":
    case "DELETED":
    case "BOOKMARK":
      return { type, object };
    case "ERROR":
      throw errorOfStatus(asked, object);
    default:
      throw badJson(
        new Error(`unknown event type ${cutText(JSON.stringify(type) ?? "", bounds.errorCauses)}`),
      );
  }
}

function parseLine(line: Buffer, object: true | Fields): Readonly<Record<string, unknown>> {
  try {
    return recordOf(object === true ? JSON.parse(line.toString()) : pickFields(line, { type: true, object }));
  } catch (error) {
    throw badJson(error);
  }
}
