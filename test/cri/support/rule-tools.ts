// SPDX-License-Identifier: Apache-2.0
// Lets the agent's iptables-restore fail or hang inside a test node, with the real program behind it.
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../support/node/run.ts";

/** `hang`: waits until the mode changes, then does its work. */
export type RestoreMode = "work" | "fail" | "hang";

const names = ["iptables", "ip6tables"].flatMap((tool) => [
  `${tool}-restore`,
  `${tool}-nft-restore`,
  `${tool}-legacy-restore`,
]);

/** What the failing program says; in the words of the real one when the kernel refuses. */
export const restoreFailure = "RULE_APPEND failed (Device or resource busy): rule in chain ISTIO_OUTPUT";

/** Programs in front of the real ones, in the first folder that the agent looks into; hidden from the machine. */
export class RuleTools {
  readonly #modeFile: string;

  private constructor(modeFile: string) {
    this.#modeFile = modeFile;
  }

  /** @param scratch folder of the test node */
  static async install(scratch: string): Promise<RuleTools> {
    const folder = join(scratch, "rule-tools");
    const tools = new RuleTools(join(folder, "mode"));
    await mkdir(folder);
    for (const name of names) {
      await writeFile(join(folder, name), wrapper(join(folder, "mode"), name));
      await chmod(join(folder, name), 0o755);
    }
    await tools.set("work");
    await run(["mount", "--bind", folder, "/usr/local/sbin"]);
    return tools;
  }

  /** How the programs behave from now on. */
  async set(mode: RestoreMode): Promise<void> {
    await writeFile(this.#modeFile, mode);
  }
}

function wrapper(modeFile: string, name: string): string {
  return `#!/bin/sh
while [ "$(cat ${modeFile})" = hang ]; do sleep 0.02; done
if [ "$(cat ${modeFile})" = fail ]; then
  echo "${name} v1.8.9 (nf_tables): line 5: ${restoreFailure}" >&2
  exit 4
fi
exec /usr/sbin/${name} "$@"
`;
}
