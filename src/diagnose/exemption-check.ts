// SPDX-License-Identifier: Apache-2.0
// The list of namespaces that start without the agent: whether it says what it should.
import { readFile, stat } from "node:fs/promises";
import { parseVerdicts } from "../install/namespace-verdicts.ts";
import type { PodListReport } from "../status/state-report.ts";
import { type Finding, fine, warning } from "./finding.ts";

/** What is known of the agent. */
export interface ExemptionCheckOptions {
  /** Of the list. */
  readonly path: string;
  readonly policy: "hold" | "namespace";
  /** `undefined`: no agent answers. */
  readonly pods: PodListReport | undefined;
}

/** One finding about the list. */
export async function checkExemptions({ path, policy, pods }: ExemptionCheckOptions): Promise<Finding> {
  const text = await readFile(path, "utf8").catch(() => undefined);
  if (text === undefined) {
    if (policy === "hold")
      return fine("exemptions", "AGENT_AWAY_POLICY=hold: pods wait for an agent that is away");
    const what = `AGENT_AWAY_POLICY=namespace, but there is no "${path}": every pod waits for an agent that is away`;
    return warning(
      "exemptions",
      what,
      "the agent writes it once it knows the namespaces: look at its watches",
    );
  }
  const names = parseVerdicts(text).starting;
  if (policy === "hold") {
    const what = `"${path}" exempts ${names.length} namespaces although AGENT_AWAY_POLICY=hold`;
    return warning("exemptions", what, "it is left of an earlier setting: start the agent, which removes it");
  }
  const stuck = names.filter(
    (ns) => pods?.pods.some((pod) => pod.ns === ns && pod.desired.wanted === true) === true,
  );
  if (stuck.length === 0)
    return fine("exemptions", `pods of ${names.length} namespaces start while the agent is away ("${path}")`);
  const { mtime } = await stat(path);
  const what = `"${path}" (of ${mtime.toISOString()}) exempts ${stuck.join(", ")}, whose pods belong into the mesh`;
  return warning(
    "exemptions",
    what,
    "they would start uncaptured while the agent is away: restart the agent",
  );
}
