// SPDX-License-Identifier: Apache-2.0
// Builds the dashboard's page into three texts that the bundle carries in itself.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import type { PageText } from "../src/dashboard/dashboard-server.ts";

const folder = join(import.meta.dirname, "../src/dashboard/page");

/** The page for browsers of the last two years. @throws Error when a source does not build */
export async function buildDashboardPage(): Promise<PageText> {
  const [html, css, js] = await Promise.all([
    readFile(join(folder, "page.html"), "utf8"),
    bundle("page.css"),
    bundle("main.ts"),
  ]);
  return { html, css, js };
}

async function bundle(entry: string): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [join(folder, entry)],
    bundle: true,
    write: false,
    platform: "browser",
    format: "esm",
    target: entry.endsWith(".ts") ? "es2023" : "chrome123",
    minify: true,
    logLevel: "warning",
  });
  const [output] = outputFiles;
  if (output === undefined)
    throw new Error(`Cannot build "${entry}" of the dashboard: esbuild gave no output`);
  return output.text;
}
