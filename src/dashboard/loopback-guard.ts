// SPDX-License-Identifier: Apache-2.0
// Keeps other web sites out of a server on the loopback address: any page in a browser on this machine can send to it.
import type { IncomingMessage } from "node:http";

/** Names under which a browser reaches a loopback address; a site's own name that points here is none of them. */
const loopbackNames = new Set(["127.0.0.1", "localhost", "[::1]"]);

/**
 * Why a request is refused; `undefined`: it may be answered. Any port is right: people forward ports.
 * Source: W3C Fetch Metadata Request Headers; RFC 6454 section 7; RFC 9110 section 7.2.
 */
export function refusalOf({
  headers,
  method,
  url = "",
}: Pick<IncomingMessage, "headers" | "method" | "url">):
  | { readonly status: 403 | 405; readonly reason: string }
  | undefined {
  if (method !== "GET" && method !== "HEAD") return { status: 405, reason: "this port can only be read" };
  const { host = "", origin } = headers;
  const name = /^(\[[^\]]*\]|[^:]*)(?::\d+)?$/.exec(host)?.[1]?.toLowerCase() ?? "";
  if (!loopbackNames.has(name)) {
    return { status: 403, reason: "open the dashboard as localhost or 127.0.0.1, not under another name" };
  }
  if (origin !== undefined && origin !== `http://${host}`)
    return { status: 403, reason: "another site's page may not read this port" };
  const site = headers["sec-fetch-site"];
  const isOwn = site === undefined || site === "same-origin" || site === "none";
  const isLink = headers["sec-fetch-mode"] === "navigate" && headers["sec-fetch-dest"] === "document";
  if (isOwn || (isLink && url.split("?", 1)[0] === "/")) return undefined;
  return { status: 403, reason: "another site's page may not read this port" };
}
