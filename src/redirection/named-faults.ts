// SPDX-License-Identifier: Apache-2.0
// What an engine cannot do in a namespace, as a fault of the pod's redirection.
import { ToolError } from "../linux/run-tool.ts";
import { NetfilterFault } from "../netfilter/netfilter-fault.ts";
import { RedirectionError } from "./redirection-error.ts";

/** Does something in a namespace. @throws {RedirectionError} for what the engine cannot do there; a {@link ToolError} when the caller gave up */
export async function named<T>(
  { signal }: { readonly signal?: AbortSignal | undefined },
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted === true && !(error instanceof ToolError)) throw givenUp();
    if (!(error instanceof NetfilterFault)) throw error;
    const code = error.code === "NOT_AS_TOLD" ? "NOT_CONVERGED" : error.code;
    throw new RedirectionError(code, error.message, { cause: error });
  }
}

export function givenUp(): ToolError {
  return new ToolError("TOOL_ABORTED", "Cannot finish with a pod's rules: the caller gave up");
}
