// SPDX-License-Identifier: Apache-2.0
// What the API server says, those who write pods through it, and who configures the agent.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cutText, fits } from "../../src/bounds/bounded.ts";
import { bounds } from "../../src/bounds/bounds.ts";
import { parseWatchEvent } from "../../src/kube/api-client.ts";
import { ApiError } from "../../src/kube/api-error.ts";
import { Credentials } from "../../src/kube/credentials.ts";
import { recordOf } from "../../src/kube/json-fields.ts";
import { ListSplitter } from "../../src/kube/list-splitter.ts";
import {
  namespaceFields,
  podAnnotations,
  podFields,
  toNamespaceFacts,
  toPodFacts,
} from "../../src/kube/pod-facts.ts";
import { interfaceNameFault, readPodOverrides } from "../../src/kube/pod-overrides.ts";
import { parseEnablementSelectors, SelectorError } from "../../src/kube/selectors.ts";
import { trustBundles } from "../../src/kube/trust.ts";
import { renderRedirectText } from "../../src/redirection/told-redirection.ts";
import { type FuzzTarget, parsed } from "./fuzz-target.ts";
import { scratchFolder } from "./scratch-folder.ts";

const asked = { method: "GET", path: "/api/v1/pods", server: "api:6443" } as const;
const hasCode = (error: unknown, code: string) =>
  error instanceof Error && "code" in error && error.code === code;
const isBadAnswer = (error: unknown) => hasCode(error, "BAD_RESPONSE") || error instanceof ApiError;

function jsonOf(text: string): { readonly value: unknown } | undefined {
  return parsed(
    () => ({ value: JSON.parse(text) as unknown }),
    (error) => error instanceof SyntaxError,
  );
}

/** In the text of JSON: whether a name of a field has an escape in it; names are taken as they are written. */
function hasEscapedNames(json: Buffer): boolean {
  const texts = json.toString().matchAll(/"((?:[^"\\]|\\.)*)"(\s*:)?/gs);
  return [...texts].some(([, text = "", colon]) => colon !== undefined && text.includes("\\"));
}

/** What is picked of an object's bytes is what JSON.parse finds there. */
function runWatchLine(input: Uint8Array): void {
  const line = Buffer.from(input);
  const read = (fields: typeof podFields) =>
    parsed(() => parseWatchEvent(line, { asked, fields }), isBadAnswer);
  const [pod, namespace] = [read(podFields), read(namespaceFields)];
  const json = jsonOf(line.toString());
  const whole = recordOf(json?.value);
  const labels = Object.keys(recordOf(recordOf(recordOf(whole.object).metadata).labels)).length;
  // of very many labels the first are taken
  const isComparable = json !== undefined && !hasEscapedNames(line) && labels < bounds.labels.count;
  const isEvent =
    ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"].includes(String(whole.type)) &&
    typeof whole.type === "string";
  if (isComparable && isEvent) assert(pod !== undefined && namespace !== undefined, "an event is taken");
  for (const [event, convert] of [
    [pod, toPodFacts],
    [namespace, toNamespaceFacts],
  ] as const) {
    if (event === undefined) continue;
    const facts = convert(event.object);
    if (isComparable && isEvent) assert.deepEqual(facts, convert(whole.object));
    if (facts === undefined) continue;
    assert(fits(facts.uid, bounds.uid) && Object.keys(facts.labels).length <= bounds.labels.count);
  }
}

/** Items and the rest of a list, put together, are what JSON.parse finds, wherever the pieces end. */
function runList(input: Uint8Array): void {
  const [size = 1, ...rest] = input;
  const bytes = Buffer.from(rest);
  using splitter = new ListSplitter();
  const items: string[] = [];
  const head = parsed(() => {
    for (let at = 0; at < bytes.length; at += 1 + size)
      for (const item of splitter.push(bytes.subarray(at, at + 1 + size))) items.push(item.toString());
    return splitter.end();
  }, isBadAnswer);
  const json = jsonOf(bytes.toString());
  const list = recordOf(json?.value);
  // a list that names its items twice, or with escapes, is none of an API server's
  const isPlain = !hasEscapedNames(bytes) && bytes.toString().split('"items"').length === 2;
  if (json === undefined || !isPlain || !Array.isArray(list.items)) return;
  assert(head !== undefined, "a list is taken");
  const page = JSON.parse(head) as { items: unknown[] };
  assert.deepEqual(
    { ...page, items: [...page.items, ...items.map((item) => JSON.parse(item) as unknown)] },
    list,
  );
}

/** Three annotations between line ends. */
function runAnnotations(input: Uint8Array): void {
  const [dns = "", ingress = "", ...interfaces] = Buffer.from(input).toString().split("\n");
  const { virtualInterfaces, warnings, ...how } = readPodOverrides({
    [podAnnotations.dnsCapture]: dns,
    [podAnnotations.bypassInboundCapture]: ingress,
    // facts of a pod hold no more of it
    [podAnnotations.rerouteVirtualInterfaces]: cutText(interfaces.join("\n"), bounds.annotation),
  });
  assert(warnings.length <= bounds.podWarnings.count + 1);
  // none of what a terminal would obey is in a line of the log
  for (const warning of warnings) assert(!/\p{Cc}/u.test(warning) && warning.length < 512, warning);
  assert(virtualInterfaces.length <= bounds.reroutedInterfaces.count);
  for (const name of virtualInterfaces) assert.equal(interfaceNameFault(name), undefined);
  if (virtualInterfaces.length === 0) return;
  const base = {
    probeSnatV4: "169.254.7.127",
    probeSnatV6: "fd16::1",
    ingressMode: how.ingressMode,
    dnsCapture: how.dnsCapture ?? true,
  };
  const plain = virtualInterfaces.map((_, index) => `if${index}`);
  for (const family of [4, 6] as const) {
    const text = renderRedirectText({ ...base, virtualInterfaces }, family);
    const expected = renderRedirectText({ ...base, virtualInterfaces: plain }, family);
    assert.equal(
      text.split(/\s+/).length,
      expected.split(/\s+/).length,
      "a name is one word of a rule, and no other",
    );
  }
}

function runKubeconfig(input: Uint8Array): void {
  const path = join(scratchFolder(), "kubeconfig");
  writeFileSync(path, input);
  const isRefusal = (error: unknown) => error instanceof ApiError && error.reason === "Credentials";
  const credentials = parsed(() => Credentials.load({ kubeconfigPath: path }), isRefusal);
  credentials?.close();
  for (const bundle of trustBundles(Buffer.from(input).toString("latin1")))
    assert.match(bundle, /BEGIN CERTIFICATE/);
}

const pod = {
  metadata: {
    name: "web",
    namespace: "shop",
    uid: "u-1",
    resourceVersion: "7",
    labels: { app: "web", "istio.io/dataplane-mode": "ambient" },
    annotations: { [podAnnotations.dnsCapture]: "false", other: "x" },
    ownerReferences: [{ kind: "DaemonSet", name: "d", controller: true }],
  },
  spec: {
    nodeName: "n",
    hostNetwork: false,
    containers: [{ name: "c", env: [{ name: "A", value: '}"\\' }] }],
  },
  status: {
    phase: "Running",
    podIPs: [{ ip: "10.0.0.1" }, { ip: "fd00::1" }],
    containerStatuses: [{ containerID: "containerd://ab" }],
  },
};
const jsonWords = [
  '"',
  "\\",
  "\\u0041",
  "{",
  "}",
  "[",
  "]",
  ":",
  ",",
  "null",
  "true",
  "false",
  "1e9",
  " ",
  '"__proto__":',
  "\xff",
  "\xe2\x82",
];
const podWords = [
  '"metadata":',
  '"labels":',
  '"annotations":',
  '"uid":',
  '"name":',
  '"namespace":',
  '"status":',
  '"podIPs":',
  '"type":"ADDED"',
  '"object":',
];

/** Parsers of the API server's words, and of configuration. */
export const kubeTargets: readonly FuzzTarget[] = [
  {
    name: "watch-line",
    whose: "a line of a watch, and the pod or namespace in it",
    seeds: () => [
      JSON.stringify({ type: "ADDED", object: pod }),
      JSON.stringify({ type: "BOOKMARK", object: { metadata: { resourceVersion: "9" } } }),
      JSON.stringify({
        type: "ERROR",
        object: {
          kind: "Status",
          code: 410,
          reason: "Expired",
          message: "m",
          details: { causes: [{ field: "f", reason: "r" }] },
        },
      }),
      ' { "object" : { "metadata" : { "name" : "ns" , "labels" : { "é" : "€" } } } , "type" : "MODIFIED" } ',
    ],
    words: [...jsonWords, ...podWords],
    run: runWatchLine,
  },
  {
    name: "list",
    whose: "a list of the API server, in pieces; the first byte says how long these are",
    seeds: () => [
      '\x00{"kind":"PodList","metadata":{"continue":"c"},"items":[{"a":"]\\",\\\\"},{"b":[1,{}]}]}',
      '\x05{"items":[]}',
      '\x20 { "items" : [ 1 , "," ] , "x" : [2] } ',
    ],
    words: [...jsonWords, '"items":[', "]}", ",,"],
    run: runList,
  },
  {
    name: "annotations",
    whose: "a pod's annotations",
    seeds: () => ["true\nfalse\neth0,veth+, net1", 'x\ny\n-j,ACCEPT,a b,"', "\n\n.,..,a/b"],
    words: [",", "+", "-A", "\n", "\r", "\u2028", "\0", '"', "veth", "ACCEPT", "…", "true", "F"],
    run: runAnnotations,
  },
  {
    name: "selectors",
    whose: "the enablement selectors' setting",
    seeds: () => [
      "- podSelector:\n    matchLabels:\n      a: b\n  namespaceSelector:\n    matchExpressions:\n    - {key: k, operator: In, values: [x]}\n",
      '[{"podSelector":{},"namespaceSelector":{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}}]',
      "null",
    ],
    words: [
      "podSelector:",
      "matchLabels:",
      "matchExpressions:",
      "operator: In",
      "values:",
      "- ",
      "\n  ",
      "&a ",
      "*a",
      "<<: ",
      "!!binary ",
      "{",
      "}",
      "[",
      "]",
      "? ",
      ": ",
      "|\n",
      "'",
    ],
    run: (input) => {
      const found = parsed(
        () => parseEnablementSelectors(Buffer.from(input).toString()),
        (error) => error instanceof SelectorError,
      );
      for (const { podSelector, namespaceSelector } of found?.selectors ?? [])
        assert(Array.isArray(podSelector) && Array.isArray(namespaceSelector));
    },
  },
  {
    name: "kubeconfig",
    whose: "the kubeconfig, and the certificates in it",
    seeds: () => [
      "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: 'https://a:6443'}}]\nusers: [{name: u, user: {tokenFile: t}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n",
      '{"clusters":[{"name":"k","cluster":{"server":"http://a"}}],"contexts":[{"name":"c","context":{"cluster":"k"}}],"current-context":"c"}',
      "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
    words: [
      "current-context: c",
      "clusters:",
      "users:",
      "contexts:",
      "- name: ",
      "server: ",
      "tokenFile: ",
      "exec:",
      "null",
      "[",
      "]",
      "{",
      "}",
      "&a ",
      "*a",
      "\n",
      "-----BEGIN CERTIFICATE-----",
      "-----END CERTIFICATE-----",
    ],
    run: runKubeconfig,
  },
];
