// SPDX-License-Identifier: Apache-2.0
// The pages for people say what is there: links lead somewhere, files and commands exist, settings and Events are all named and none besides.
import { existsSync, globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config.ts";

const root = join(import.meta.dirname, "../..");
const pages = globSync(["*.md", "docs/**/*.md", "deploy/**/*.md"], { cwd: root }).toSorted();
const read = (path: string) => readFileSync(join(root, path), "utf8");
const scripts = (JSON.parse(read("package.json")) as { scripts: Record<string, string> }).scripts;

/** As forges make them of headings. */
function anchorsOf(page: string): string[] {
  return [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );
}

test("there are pages", () => {
  expect(pages).toEqual(expect.arrayContaining(["README.md", "docs/testing.md", "docs/decisions/README.md"]));
});

describe.each(pages)("%s", (page) => {
  const text = read(page);

  test("has links that lead somewhere", () => {
    const broken = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, target = ""]) => target)
      .filter((target) => !/^https?:/.test(target))
      .filter((target) => {
        const [path = "", anchor] = target.split("#");
        const file = path === "" ? page : join(dirname(page), path);
        if (!existsSync(join(root, file))) return true;
        return anchor !== undefined && !anchorsOf(file).includes(anchor);
      });
    expect(broken).toEqual([]);
  });

  test("names files that are there", () => {
    const named = [...text.matchAll(/`((?:src|test|scripts|native|plugin|deploy|docs)\/[\w./-]+)`/g)].map(
      ([, path = ""]) => path,
    );
    // a test is named with its two files' common beginning
    const missing = named.filter((path) => globSync([path, `${path}.*`], { cwd: root }).length === 0);
    expect(missing).toEqual([]);
  });

  test("names scripts that are there", () => {
    const named = [...text.matchAll(/\bnpm run (?:-s )?(\w+(?:[:-]\w+)*)/g)].map(([, script = ""]) => script);
    expect(named.filter((script) => !Object.hasOwn(scripts, script))).toEqual([]);
  });

  test("names tests that are there", () => {
    const named = [...text.matchAll(/\bvitest run ([^`\n]*)/g)].flatMap(([, args = ""]) =>
      args.split(" ").filter((arg) => arg.startsWith("test/")),
    );
    const missing = named.filter((start) => globSync(`${start}*`, { cwd: root }).length === 0);
    expect(missing).toEqual([]);
  });
});

test(".github/CODEOWNERS names what is there", () => {
  const paths = [...read(".github/CODEOWNERS").matchAll(/^\/(\S+)/gm)].map(([, path = ""]) => path);
  expect(paths.length).toBeGreaterThan(5);
  expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
});

describe("docs/settings.md", () => {
  const documented = new Set(
    [...read("docs/settings.md").matchAll(/^\| (`[A-Z][^|]*)\|/gm)].flatMap(([, cell = ""]) =>
      [...cell.matchAll(/`([A-Z][A-Z0-9_]+)/g)].map(([, name = ""]) => name),
    ),
  );

  /** Every name that is looked up in the environment. */
  function settingsRead(): string[] {
    const names = new Set<string>();
    const env = new Proxy<Record<string, string>>(
      { NODE_NAME: "node-1" },
      {
        get: (values, name) => {
          names.add(String(name));
          return values[String(name)];
        },
      },
    );
    loadConfig({ env, args: [] });
    return [...names];
  }

  test("has every setting that is read", () => {
    const elsewhere = new Set([
      // given by the DaemonSet beside NODE_NAME, and older names of settings
      ...["POD_NAME", "POD_NAMESPACE", "KUBERNETES_NODE_NAME", "EXCLUDED_NAMESPACES"],
      // the row names them with an ellipsis
      ...[
        "ISTIO_OWNED_CNI_CONFIG_FILENAME",
        "ISTIO_OWNED_CNI_CONF_FILENAME",
        "REPAIR_BROKEN_POD_LABEL_VALUE",
      ],
    ]);
    const missing = settingsRead().filter((name) => !documented.has(name) && !elsewhere.has(name));
    expect(missing).toEqual([]);
  });

  test("has none that nothing reads", () => {
    const known = new Set(settingsRead());
    expect([...documented].filter((name) => !known.has(name) && name !== "REPAIR_")).toEqual([]);
  });
});

test("docs/events-and-metrics.md has every Event, and none besides", () => {
  const union = /export type EventReason =([^;]*);/.exec(read("src/kube/event-recorder.ts"))?.[1] ?? "";
  const reasons = [...union.matchAll(/"(\w+)"/g)].map(([, reason = ""]) => reason);
  expect(reasons.length).toBeGreaterThan(8);
  const [events = ""] = read("docs/events-and-metrics.md").split("\n## What you may see");
  const documented = [...events.matchAll(/^\| (`[^|]*)\|/gm)].flatMap(([, cell = ""]) =>
    [...cell.matchAll(/`(\w+)`/g)].map(([, name = ""]) => name),
  );
  expect(documented.toSorted()).toEqual(reasons.toSorted());
});
