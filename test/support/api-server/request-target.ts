// SPDX-License-Identifier: Apache-2.0
// What a request to the stub API server asks for, from its method and URL.
import type { Verb } from "./faults.ts";
import { isResourceName, type ResourceName, resourceKinds, StatusError } from "./objects.ts";

export interface RequestTarget {
  readonly verb: Verb;
  readonly resource: ResourceName;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly subresource: string | undefined;
  readonly query: URLSearchParams;
}

/** Reads method and URL. @throws StatusError 404 for paths that are not served, 405 for methods that make no sense. */
export function parseRequestTarget(method: string, url: URL): RequestTarget {
  const parts = url.pathname.split("/").filter((part) => part !== "");
  const rest = parts[0] === "api" ? parts.slice(2) : parts[0] === "apis" ? parts.slice(3) : [];
  const scoped = rest[0] === "namespaces" && rest.length >= 3 && isResourceName(rest[2] ?? "");
  const namespace = scoped ? decodeURIComponent(rest[1] ?? "") : undefined;
  const [resource = "", name, subresource] = scoped ? rest.slice(2) : rest;
  if (!isResourceName(resource)) {
    throw new StatusError(404, "the server could not find the requested resource");
  }
  const watching = ["1", "true"].includes(url.searchParams.get("watch") ?? "");
  const verb = verbOf(method, { named: name !== undefined, watching });
  if (
    verb === undefined ||
    (name !== undefined && namespace === undefined && resourceKinds[resource].namespaced)
  ) {
    throw new StatusError(405, "the server does not allow this method on the requested resource");
  }
  return {
    verb,
    resource,
    namespace,
    name: name === undefined ? undefined : decodeURIComponent(name),
    subresource,
    query: url.searchParams,
  };
}

function verbOf(method: string, kind: { named: boolean; watching: boolean }): Verb | undefined {
  switch (method) {
    case "GET":
      if (kind.named) return "get";
      return kind.watching ? "watch" : "list";
    case "POST":
      return kind.named ? undefined : "create";
    case "PUT":
      return kind.named ? "update" : undefined;
    case "PATCH":
      return kind.named ? "patch" : undefined;
    case "DELETE":
      return kind.named ? "delete" : undefined;
    default:
      return undefined;
  }
}
