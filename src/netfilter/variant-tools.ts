// SPDX-License-Identifier: Apache-2.0
// Which iptables programs there are, under which names, and for which of the kernel's two rule engines.
import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { ToolError, type ToolRunner } from "../linux/run-tool.ts";
import type { Family } from "./family.ts";

/** The kernel's two engines for iptables rules: nf_tables, and the older x_tables. */
export type Variant = "nft" | "legacy";

/** The programs of one variant for one family: names to be looked up in PATH. */
export interface FamilyTools {
  readonly save: string;
  readonly restore: string;
}

/** The programs of one variant. */
export interface VariantTools {
  readonly variant: Variant;
  readonly 4: FamilyTools;
  /** Undefined when the IPv6 programs are not installed. */
  readonly 6: FamilyTools | undefined;
}

/** The programs of each variant that is installed. */
export interface InstalledTools {
  readonly nft?: VariantTools;
  readonly legacy?: VariantTools;
}

/**
 * Looks for the programs in the runner's PATH: first the names that carry their variant, then the plain names, which
 * are asked for theirs.
 * @throws {ToolError} when a plain program is there but does not run.
 * Source: iptables(8), xtables-nft(8): `--version` prints `(nf_tables)` or `(legacy)`; before 1.8 there was legacy only.
 */
export async function findTools(runner: ToolRunner): Promise<InstalledTools> {
  const found: { nft?: VariantTools; legacy?: VariantTools } = {};
  for (const variant of ["nft", "legacy"] as const) {
    const v4 = await familyTools(runner, { family: 4, infix: `-${variant}` });
    if (v4 === undefined) continue;
    found[variant] = { variant, 4: v4, 6: await familyTools(runner, { family: 6, infix: `-${variant}` }) };
  }
  const plain = await familyTools(runner, { family: 4, infix: "" });
  if (plain !== undefined && (found.nft === undefined || found.legacy === undefined)) {
    const variant = await plainVariant(plain, runner);
    found[variant] ??= { variant, 4: plain, 6: await plainTools6(runner, { variant }) };
  }
  return found;
}

async function plainTools6(
  runner: ToolRunner,
  { variant }: { variant: Variant },
): Promise<FamilyTools | undefined> {
  const tools = await familyTools(runner, { family: 6, infix: "" });
  return tools !== undefined && (await plainVariant(tools, runner)) === variant ? tools : undefined;
}

async function plainVariant(tools: FamilyTools, runner: ToolRunner): Promise<Variant> {
  const { stdout } = await runner.run({ argv: [tools.restore, "--version"] });
  if (!/v\d+\.\d+/.test(stdout)) {
    throw new ToolError(
      "TOOL_FAILED",
      `Cannot tell the variant of "${tools.restore}": it printed "${stdout.trim()}"`,
    );
  }
  return stdout.includes("nf_tables") ? "nft" : "legacy";
}

async function familyTools(
  runner: ToolRunner,
  { family, infix }: { family: Family; infix: string },
): Promise<FamilyTools | undefined> {
  const base = `${family === 4 ? "iptables" : "ip6tables"}${infix}`;
  const tools = { save: `${base}-save`, restore: `${base}-restore` };
  const both =
    (await isInstalled(tools.save, runner.path)) && (await isInstalled(tools.restore, runner.path));
  return both ? tools : undefined;
}

async function isInstalled(name: string, path: string): Promise<boolean> {
  for (const folder of path.split(delimiter)) {
    const isExecutable = await access(join(folder, name), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isExecutable) return true;
  }
  return false;
}
