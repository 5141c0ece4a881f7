// SPDX-License-Identifier: Apache-2.0
// Every command that a page tells people to type is run by a test, run here, or looked at as far as that goes without a cluster.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { parse } from "yaml";
import { findCommand } from "../../src/cli/commands.ts";
import { chartValues } from "../settings/istio-cni-names.ts";
import { commandsOf, documentedCommands, rowOf, rows } from "./documented-commands.ts";

const root = join(import.meta.dirname, "../..");
const commands = documentedCommands(root);
const read = (path: string) => readFileSync(join(root, path), "utf8");
const heldBy = (by: string) =>
  [...new Set(commands.map(({ text }) => text))].filter((text) => rowOf(text)?.holder.by === by);

test("each command is in the list, and the list has no row that no page needs", () => {
  expect(commands.length).toBeGreaterThan(50);
  expect(commands.filter(({ text }) => rowOf(text) === undefined)).toEqual([]);
  const used = new Set(commands.map(({ text }) => rowOf(text)));
  expect(rows.filter((row) => !used.has(row)).map(({ begins }) => begins)).toEqual([]);
});

test("a command that nobody runs is found, in whatever block it stands", () => {
  const text =
    "Do this:\n\n    frobnicate --all   # why\n\nthen\n\n```sh\nnpm run demo\ngrumble |\n  kubectl apply -f -\n```\n\n    $ mumble --now\n    its output\n";
  const found = commandsOf("x.md", text).map((each) => each.text);
  expect(found).toEqual(["frobnicate --all", "npm run demo", "grumble | kubectl apply -f -", "mumble --now"]);
  expect(found.filter((each) => rowOf(each) === undefined)).toEqual([found[0], found[2], found[3]]);
});

test.each(rows.filter(({ holder }) => holder.by === "test"))(
  "$begins: the test that runs it is there",
  ({ holder }) => {
    if (holder.by !== "test") return;
    expect(read(holder.file)).toContain(holder.words);
  },
);

test.each(heldBy("this run"))("%s", (text) => {
  const holder = rowOf(text)?.holder;
  const scratch = mkdtempSync(join(tmpdir(), "typed-"));
  onTestFinished(() => rmSync(scratch, { recursive: true }));
  let line = text;
  if (holder?.by === "this run")
    for (const [word, other] of Object.entries(holder.instead ?? {}))
      line = line.replace(word, other.replace("SCRATCH", scratch));
  // a setting for Node alone: for any program of it
  if (/^NODE_OPTIONS=\S+$|^NODE_OPTIONS="[^"]*"$/.test(line)) line = `${line} node -e 0`;
  const env = { ...process.env, PATH: `${join(root, "node_modules/.bin")}:${process.env.PATH}` };
  const { status, stdout, stderr } = spawnSync("sh", ["-c", line], { cwd: root, env, encoding: "utf8" });
  expect({ status, said: status === 0 ? "" : stdout + stderr }).toEqual({ status: 0, said: "" });
});

test.each(heldBy("its names"))("%s: what it names is there", (text) => {
  for (const [path] of text.matchAll(/(?<=\s|^)(?:deploy|scripts)\/[\w./-]+/g))
    expect(existsSync(join(root, path)), path).toBe(true);
  for (const [, name = ""] of text.matchAll(/(?:daemonset|ds)[/ ]([\w-]+)/g))
    expect(["ambient-cni-node", "istio-cni-node"]).toContain(name);
  for (const [, command = ""] of text.matchAll(/-- ambient-cni (\w+)/g))
    expect(findCommand(command), command).toBeDefined();
  const [, chart] = /^helm .*(deploy\/chart|istio\/cni)/.exec(text) ?? [];
  const values =
    chart === "deploy/chart"
      ? (parse(read("deploy/chart/values.yaml")) as object)
      : { ...chartValues, profile: "", global: {} };
  const path = text.startsWith("istioctl") ? /^values\.cni\.|^(profile|components\.cni\.enabled)$/ : /^/;
  for (const [, name = ""] of text.matchAll(/--set ([\w.]+)=/g)) {
    expect(name).toMatch(path);
    const [first = ""] = name.replace(/^values\.cni\.|^components\.cni\.enabled$/, "").split(".");
    if (first !== "") expect(Object.keys(values), name).toContain(first);
  }
  const [, verb] = /^kubectl (?:-n \S+ )?(\S+)/.exec(text) ?? [];
  if (verb !== undefined)
    expect([
      "create",
      "label",
      "get",
      "apply",
      "delete",
      "exec",
      "port-forward",
      "rollout",
      "describe",
      "logs",
    ]).toContain(verb);
});
