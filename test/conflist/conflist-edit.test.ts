// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseConf } from "../../src/conflist/conf.ts";
import { confBytes, confTextOf } from "../../src/conflist/conf-text.ts";
import type { PluginEntry } from "../../src/conflist/conflist-edit.ts";
import { seededRandom } from "../plugin/random-json.ts";
import { chainEntries, confValue, insertPlugin, removePlugin, wrapConf } from "./by-text.ts";

const entry: PluginEntry = {
  type: "ambient-cni",
  cni_agent_run_dir: "/var/run/istio-cni",
  agent_wait_seconds: 10,
  exempt: ["kube-system", "istio-system/istio-cni-node-"],
};
const ours = JSON.stringify(entry);
const other = ours.replace(":10,", ":20,");

const folder = join(import.meta.dirname, "fixtures");
const fixtures = readdirSync(folder).filter((name) => /\.conf(list)?$/.test(name));
const read = (name: string): string => confTextOf(readFileSync(join(folder, name)));
const pluginsOf = (text: string): { type: string }[] =>
  (confValue(text.replace(/^\xef\xbb\xbf/, "")) as { plugins: { type: string }[] }).plugins;

describe("insertPlugin", () => {
  it.each(fixtures.filter((name) => name.endsWith(".conflist")))(
    "appends one entry to %s, changes nothing else, and removePlugin gives back the original bytes",
    (name) => {
      const original = read(name);
      const before = confValue(original) as { plugins: object[] };
      const text = insertPlugin(original, entry);
      expect(confValue(text)).toEqual({ ...before, plugins: [...before.plugins, entry] });
      // one insertion, nothing else
      let same = 0;
      while (original[same] === text[same]) same++;
      const tail = original.slice(same);
      expect(text.endsWith(tail)).toBe(true);
      expect(text).not.toMatch(/ambient-cni[^\n]{0,3}\n[^\S\n]*\n/);
      expect(() => parseConf(name, text)).not.toThrow();
      expect(insertPlugin(text, entry)).toBe(text);
      expect(removePlugin(text)).toBe(original);
    },
  );

  it.each([
    ["minified", `{"name":"a","plugins":[{"type":"x"}]}`, `{"name":"a","plugins":[{"type":"x"},${ours}]}`],
    [
      "indented by two",
      `{\n  "plugins": [\n    {\n      "type": "x"\n    }\n  ]\n}\n`,
      `{\n  "plugins": [\n    {\n      "type": "x"\n    },\n    {\n      "type": "ambient-cni",\n      "cni_agent_run_dir": "/var/run/istio-cni",\n      "agent_wait_seconds": 10,\n      "exempt": ["kube-system", "istio-system/istio-cni-node-"]\n    }\n  ]\n}\n`,
    ],
    [
      "tabs and CRLF",
      `{\r\n\t"plugins":[\r\n\t\t{\r\n\t\t\t"type":"x",\r\n\t\t\t"a":1\r\n\t\t}\r\n\t]\r\n}\r\n`,
      `{\r\n\t"plugins":[\r\n\t\t{\r\n\t\t\t"type":"x",\r\n\t\t\t"a":1\r\n\t\t},\r\n\t\t{\r\n\t\t\t"type":"ambient-cni",\r\n\t\t\t"cni_agent_run_dir":"/var/run/istio-cni",\r\n\t\t\t"agent_wait_seconds":10,\r\n\t\t\t"exempt":["kube-system","istio-system/istio-cni-node-"]\r\n\t\t}\r\n\t]\r\n}\r\n`,
    ],
    [
      "elements on one line each",
      `{"plugins": [\n  {"type": "x", "a": 1}\n]}`,
      `{"plugins": [\n  {"type": "x", "a": 1},\n  {"type": "ambient-cni", "cni_agent_run_dir": "/var/run/istio-cni", "agent_wait_seconds": 10, "exempt": ["kube-system", "istio-system/istio-cni-node-"]}\n]}`,
    ],
    ["empty", `{"plugins":[]}`, `{"plugins":[${ours}]}`],
    ["empty with space", `{"plugins":[ \n ]}`, `{"plugins":[${ours} \n ]}`],
    [
      "two lists plugins: the last one counts",
      `{"plugins":[{"type":"y"}],"plugins":[{"type":"x"}]}`,
      `{"plugins":[{"type":"y"}],"plugins":[{"type":"x"},${ours}]}`,
    ],
    [
      "odd numbers, escapes, brackets in strings",
      `{"n":1.10E+2,"plug\\u0069ns":[{"type":"x","a":"]}\\"","b":-0.0}],"z":[[]]}`,
      `{"n":1.10E+2,"plug\\u0069ns":[{"type":"x","a":"]}\\"","b":-0.0},${ours}],"z":[[]]}`,
    ],
    [
      "bytes that are no UTF-8",
      `{"n":"\xff\xfe","plugins":[{"type":"x"}]}`,
      `{"n":"\xff\xfe","plugins":[{"type":"x"},${ours}]}`,
    ],
    [
      "disableCheck and cniVersion",
      `{"cniVersion":"9","disableCheck":"true","disableGC":true,"plugins":[{"type":"x"}]}`,
      `{"cniVersion":"9","disableCheck":"true","disableGC":true,"plugins":[{"type":"x"},${ours}]}`,
    ],
  ])("writes in the style of a list that is %s", (_what, original, expected) => {
    const text = insertPlugin(original, entry);
    expect(text).toBe(expected);
    expect(removePlugin(text)).toBe(original);
    expect(confBytes(text).equals(Buffer.from(expected, "latin1"))).toBe(true);
  });

  it.each([
    [
      "equal, in another order and form",
      `[{"type":"x"},{ "exempt":["kube-system","istio-system/istio-cni-node-"],"agent_wait_seconds":1e1,"type":"ambient-cni","cni_agent_run_dir":"\\/var/run/istio-cni"}]`,
      undefined,
    ],
    ["equal, with another plugin behind it", `[{"type":"x"},${ours},{"type":"z"}]`, undefined],
    ["other settings", `[{"type":"x"},${other} , {"type":"z"}]`, `[{"type":"x"},${ours} , {"type":"z"}]`],
    ["twice", `[{"type":"x"},${ours}, ${ours} ]`, `[{"type":"x"},${ours} ]`],
    [
      "three times, the first with other settings",
      `[${other},{"type":"x"},${ours},${ours}]`,
      `[${ours},{"type":"x"}]`,
    ],
    ["beside istio-cni, which is not to be replaced", `[{"type":"istio-cni"},${ours}]`, undefined],
  ])("an entry that is there %s is mended where it stands", (_what, list, expected) => {
    const text = `{"plugins":${list}}`;
    expect(insertPlugin(text, entry)).toBe(expected === undefined ? text : `{"plugins":${expected}}`);
  });

  it("leaves other settings alone when told so, and still removes the second of two", () => {
    expect(insertPlugin(`{"plugins":[${other},${ours}]}`, entry, { keepSettings: true })).toBe(
      `{"plugins":[${other}]}`,
    );
  });

  it.each([
    [
      "replaced in place",
      `[{"type":"x"}, {"type":"istio-cni","log_level":"info"},{"type":"z"}]`,
      `[{"type":"x"}, ${ours},{"type":"z"}]`,
    ],
    ["removed when ours is there", `[{"type":"istio-cni"},${ours}]`, `[${ours}]`],
  ])("istio-cni's entry is %s when asked", (_what, list, expected) => {
    const text = `{"plugins":${list}}`;
    expect(chainEntries(text).istioCni).toBe(1);
    expect(insertPlugin(text, entry, { replaceIstioCni: true })).toBe(`{"plugins":${expected}}`);
  });

  it("an entry copied into a delegate counts: none is added, a second one is removed, settings are mended", () => {
    const inDelegate = (element: string): string =>
      `{"plugins":[{"type":"multus","delegates":[{"plugins":[{"type":"calico"}, ${element}]}]}]}`;
    expect(insertPlugin(inDelegate(ours), entry)).toBe(inDelegate(ours));
    expect(insertPlugin(inDelegate(other), entry)).toBe(inDelegate(ours));
    expect(insertPlugin(inDelegate(ours).replace(/\]\}$/, `,${ours}]}`), entry)).toBe(inDelegate(ours));
    expect(removePlugin(inDelegate(ours))).toBe(inDelegate("").replace(", ]", "]"));
  });

  it.each(["{}", '{"plugins":{}}'])("%s has no place for an entry", (text) => {
    expect(() => insertPlugin(text, entry)).toThrow('no list "plugins"');
  });

  it("a run dir outside ASCII is written in ASCII and recognised however it is written", () => {
    const odd = { ...entry, cni_agent_run_dir: "/rün/é" };
    const text = insertPlugin(`{"plugins":[{"type":"x"}]}`, odd);
    expect(text).toContain('"/r\\u00fcn/\\u00e9"');
    const raw = confTextOf(Buffer.from(`{"plugins":[{"type":"x"},${JSON.stringify(odd)}]}`));
    expect(insertPlugin(raw, odd)).toBe(raw);
  });

  it("gives back the original bytes over 2000 random layouts", () => {
    const random = seededRandom(20_261_121);
    const space = (): string =>
      Array.from({ length: random(4) }, () => [" ", "\t", "\n", "\r\n"][random(4)]).join("");
    const pad = (token: string): string => `${space()}${token}${space()}`;
    const value = (depth: number): string => {
      const kind = random(depth > 0 ? 6 : 4);
      if (kind === 0) return ["1e-3", "-0", "12.50", "0E+1"][random(4)] ?? "";
      if (kind === 1) return ['"a]b"', '"\\"}"', '"\\u00e9\xe9"', '""'][random(4)] ?? "";
      if (kind === 2) return "null";
      if (kind === 3) return "true";
      const parts = Array.from({ length: random(3) }, () =>
        kind === 4 ? pad(value(depth - 1)) : `${pad('"k"')}:${pad(value(depth - 1))}`,
      );
      const inside = parts.length === 0 ? space() : parts.join(",");
      return kind === 4 ? `[${inside}]` : `{${inside}}`;
    };
    for (let round = 0; round < 2000; round++) {
      const plugins = Array.from(
        { length: random(4) },
        (_, index) => `{${pad('"type"')}:${pad(`"p${index}"`)},${pad('"v"')}:${pad(value(3))}}`,
      );
      const inside = plugins.length === 0 ? space() : plugins.map(pad).join(",");
      const original = `${space()}{${pad('"a"')}:${pad(value(3))},${pad('"plugins"')}:${space()}[${inside}]${space()}}${space()}`;
      const text = insertPlugin(original, entry);
      expect(pluginsOf(text).map((plugin) => plugin.type)).toEqual([
        ...plugins.map((_, index) => `p${index}`),
        "ambient-cni",
      ]);
      expect(removePlugin(text)).toBe(original);
      expect(insertPlugin(text, entry)).toBe(text);
    }
  });
});

describe("wrapConf", () => {
  it.each(fixtures.filter((name) => name.endsWith(".conf")))(
    "makes %s a list, its text kept byte for byte",
    (name) => {
      const original = read(name);
      const value = confValue(original) as { name: string; cniVersion: string };
      const text = wrapConf(original);
      expect(confValue(text)).toEqual({ name: value.name, cniVersion: value.cniVersion, plugins: [value] });
      expect(text).toContain(original.trim());
      expect(removePlugin(insertPlugin(text, entry))).toBe(text);
      expect(parseConf("a.conflist", text).network).toBe(value.name);
    },
  );

  it.each([
    ['{"type":"x"}', '{"name":"","plugins":[{"type":"x"}]}'],
    [' {"type":"x","name":"n\\u0061"}\n', '{"name":"n\\u0061","plugins":[{"type":"x","name":"n\\u0061"}]}'],
  ])("%s becomes %s", (original, expected) => {
    expect(wrapConf(original)).toBe(expected);
  });
});

describe("an entry of ours under istio-cni's name", () => {
  const inItsPlace: PluginEntry = { ...entry, type: "istio-cni" };
  const theirs =
    '{"type":"istio-cni","cni_agent_run_dir":"/var/run/istio-cni","exclude_namespaces":["kube-system"]}';

  it.each([
    ["ours", insertPlugin('{"plugins":[{"type":"x"}]}', inItsPlace), { ours: 1, istioCni: 0 }],
    ["istio-cni's", `{"plugins":[${theirs}]}`, { ours: 0, istioCni: 1 }],
    ["both", insertPlugin(`{"plugins":[${theirs}]}`, inItsPlace), { ours: 1, istioCni: 1 }],
  ])("is told from istio-cni's: %s", (_what, text, expected) => {
    expect(chainEntries(text)).toMatchObject(expected);
  });

  it("takes the place of ours under the other name, and of istio-cni's, and leaves nothing when it goes", () => {
    const text = insertPlugin(`{"plugins":[{"type":"x"},${theirs}]}`, entry);
    const one = insertPlugin(text, inItsPlace, { replaceIstioCni: true });
    expect(one).toBe(insertPlugin('{"plugins":[{"type":"x"}]}', inItsPlace));
    expect(removePlugin(one)).toBe('{"plugins":[{"type":"x"}]}');
  });
});
