// SPDX-License-Identifier: Apache-2.0
// Whether a container runtime tells of its sandboxes by NRI.
import { run } from "../../support/node/run.ts";

/** Source: containerd docs/NRI.md: on by default since 2.0. @param version of containerd, "2.1.9" */
export function tellsByNri(version: string): boolean {
  return Number.parseInt(version, 10) >= 2;
}

/** Version of this machine's containerd; empty without one. */
async function containerdVersion(): Promise<string> {
  const { stdout } = await run(["sh", "-c", "containerd --version"], { mayFail: true });
  return / v?(\d+(?:\.\d+)+)/.exec(stdout)?.[1] ?? "";
}

/** Whether this machine's does. */
export async function hasNri(): Promise<boolean> {
  return tellsByNri(await containerdVersion());
}

/** What is missing, as one sentence that is also said on stderr; undefined when there is NRI. */
export async function whatNriLacks(): Promise<string | undefined> {
  if (await hasNri()) return undefined;
  const lack = `containerd ${await containerdVersion()} has no NRI by default; npm run test:runtimes has one that does`;
  process.stderr.write(`SKIP test/cri/nri: ${lack}\n`);
  return lack;
}
