// SPDX-License-Identifier: Apache-2.0
// What a container runtime, istio-cni's plugin, another writer of the CNI folder and a peer of a port say.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fits } from "../../src/bounds/bounded.ts";
import { bounds } from "../../src/bounds/bounds.ts";
import { CniError } from "../../src/cni/cni-error.ts";
import { answerVersion, type CniRequest, cniVerbs, parseCniRequest } from "../../src/cni/cni-request.ts";
import { parseIstioAddEvent } from "../../src/cni/istio-add-event.ts";
import { parseConf } from "../../src/conflist/conf.ts";
import { parseDocument } from "../../src/conflist/conf-document.ts";
import { confBytes, confTextOf } from "../../src/conflist/conf-text.ts";
import {
  chainEntries,
  insertPlugin,
  type PluginEntry,
  removePlugin,
} from "../../src/conflist/conflist-edit.ts";
import { parseCrioConf } from "../../src/conflist/crio-conf.ts";
import { RequestBytes } from "../../src/ports/request-bytes.ts";
import { type FuzzTarget, parsed } from "./fuzz-target.ts";

const fixtures = join(import.meta.dirname, "../conflist/fixtures");
const conflists = () =>
  readdirSync(fixtures)
    .filter((name) => /\.conf(?:list)?$/.test(name))
    .map((name) => readFileSync(join(fixtures, name)));
const entry: PluginEntry = {
  type: "ambient-cni",
  cni_agent_run_dir: "/var/run/istio-cni",
  agent_wait_seconds: 10,
  exempt: ["kube-system"],
};
const jsonWords = [
  '"',
  "\\",
  "\\u0000",
  "\\ud800",
  "{",
  "}",
  "[",
  "]",
  ":",
  ",",
  "null",
  "true",
  "1e999",
  "-0",
  "\xef\xbb\xbf",
  '"__proto__":',
];

const isCniError = (error: unknown) => error instanceof CniError;

/** Every word that becomes one of ours is within its bound, and what is answered is JSON. */
function holdsBounds({ network, containerId, netns, ifname, pod, ips, validAttachments }: CniRequest): void {
  // what was cut ends in "…", within the bound
  const words: [string, { readonly bytes: number }][] = [
    [network, bounds.cniNetwork],
    [containerId, bounds.cniContainerId],
    [netns, bounds.cniNetns],
    [ifname, bounds.cniIfname],
    [pod?.namespace ?? "", bounds.namespaceName],
    [pod?.name ?? "", bounds.objectName],
    [pod?.uid ?? "", bounds.uid],
    ...ips.map((ip): [string, { readonly bytes: number }] => [ip, bounds.cniAddresses]),
  ];
  for (const [word, bound] of words) assert(fits(word, bound), `a word of ${word.length} characters`);
  assert(ips.length <= bounds.cniAddresses.count);
  assert((validAttachments?.length ?? 0) <= bounds.cniAttachments.count);
}

/** The first line has the variables, `NAME=value` between tabs; the rest is the network's configuration. */
function callOf(input: Uint8Array): { env: Record<string, string>; stdin: string } {
  const text = Buffer.from(input).toString();
  const end = text.indexOf("\n");
  const head = end < 0 ? text : text.slice(0, end);
  const env = Object.fromEntries(
    head.split("\t").map((pair) => {
      const at = pair.indexOf("=");
      return [pair.slice(0, Math.max(0, at)), pair.slice(at + 1)];
    }),
  );
  return { env, stdin: end < 0 ? "" : text.slice(end + 1) };
}

function runCniRequest(input: Uint8Array): void {
  const call = callOf(input);
  const version = answerVersion(call.stdin);
  assert(fits(version, { bytes: 16 }), "the version of an answer is one of a few");
  const request = parsed(() => parseCniRequest(call), isCniError);
  if (request === undefined) return;
  holdsBounds(request);
  assert(cniVerbs.includes(request.verb));
  const { prevResult } = JSON.parse(call.stdin) as { prevResult?: unknown };
  const answer: unknown = JSON.parse(request.result);
  // passed on as it came, whatever else is in the text
  if (prevResult !== undefined && prevResult !== null) assert.deepEqual(answer, prevResult);
}

function runConflist(input: Uint8Array): void {
  const text = confTextOf(input);
  assert.deepEqual(confBytes(text), Buffer.from(input));
  // why a runtime refuses a file is told by a plain Error; what is no JSON by JSON.parse's
  const isRefusal = (error: unknown) =>
    error instanceof SyntaxError ||
    (error instanceof Error && Object.getPrototypeOf(error) === Error.prototype);
  const conf = parsed(() => parseConf("10-net.conflist", text), isRefusal);
  parsed(() => parseConf("10-net.conf", text), isRefusal);
  if (conf === undefined) return;
  const before = chainEntries(conf);
  const inserted = parsed(() => insertPlugin(conf, entry), isRefusal);
  if (inserted === undefined) return;
  const after = parseDocument(inserted);
  assert.equal(chainEntries(after).ours, 1, "there is exactly one entry of ours");
  assert.equal(chainEntries(after).istioCni, before.istioCni, "istio-cni's stay");
  assert.equal(insertPlugin(after, entry), inserted, "once more changes nothing");
  if (before.ours === 0) assert.equal(removePlugin(after), text, "every other byte stays");
  assert.equal(chainEntries(parseDocument(removePlugin(after))).ours, 0);
}

function runHttp(input: Uint8Array): void {
  const limits = { maxHeadBytes: 1024, maxBodyBytes: 2048 };
  const bytes = Buffer.from(input);
  const whole = new RequestBytes(limits).take(bytes);
  const piecemeal = new RequestBytes(limits);
  const size = 1 + ((bytes[0] ?? 0) % 7);
  let last = piecemeal.take(bytes.subarray(0, size));
  let at = size;
  for (; at < bytes.length && last.kind === "more"; at += size)
    last = piecemeal.take(bytes.subarray(at, at + size));
  if (whole.kind === "whole") assert.equal(last.kind, "whole", "pieces make no difference");
  if (whole.kind === "more" && bytes.length > 0) assert.equal(last.kind, "more");
  assert(
    piecemeal.bytes.length <= limits.maxHeadBytes + limits.maxBodyBytes + size,
    "no more is kept than may be",
  );
}

/** Parsers of what is on the node, and of what talks to the agent's sockets. */
export const cniTargets: readonly FuzzTarget[] = [
  {
    name: "cni-request",
    whose: "a CNI call: variables and the network's configuration, as the launcher relays them",
    seeds: () => [
      'CNI_COMMAND=ADD\tCNI_CONTAINERID=a1\tCNI_NETNS=/var/run/netns/cni-1\tCNI_IFNAME=eth0\tCNI_PATH=/opt/cni/bin\tCNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u\n{"cniVersion":"1.0.0","name":"net","type":"ambient-cni","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}],"interfaces":[]}}',
      'CNI_COMMAND=DEL\tCNI_CONTAINERID=a1\tCNI_IFNAME=eth0\tCNI_PATH=/x\n{"name":"net","cniVersion":"0.3.1"}',
      'CNI_COMMAND=GC\tCNI_PATH=/x\n{"name":"net","cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}',
      'CNI_COMMAND=CHECK\tCNI_CONTAINERID=a\tCNI_NETNS=n\tCNI_IFNAME=e\tCNI_PATH=/x\n{"cniVersion":"0.2.0","prevResult":{"ip4":{"ip":"10.0.0.1/8"}},"prevResult":{"a":"]}"}}',
      "CNI_COMMAND=STATUS\n{}",
    ],
    words: [
      ...jsonWords,
      '"prevResult":',
      '"cniVersion":',
      '"ips":[',
      '"address":',
      "CNI_ARGS=",
      "K8S_POD_NAME=",
      ";",
      "\t",
      "\n",
    ],
    run: runCniRequest,
  },
  {
    name: "istio-add-event",
    whose: "an event of istio-cni's plugin",
    seeds: () => [
      '{"Netns":"/var/run/netns/a","PodName":"p","PodNamespace":"n","IPs":[{"Interface":null,"Address":{"IP":"10.0.0.1","Mask":"////AA=="}}]}',
      "{}",
      '{"Netns":"a","PodName":"b","PodNamespace":"c","IPs":[null,{"Address":null}]}',
    ],
    words: [...jsonWords, '"Netns":', '"IPs":[', '"Address":', '"IP":'],
    run: (input) => {
      const event = parsed(() => parseIstioAddEvent(Buffer.from(input).toString()), isCniError);
      if (event !== undefined) holdsBounds(event);
    },
  },
  {
    name: "conflist",
    whose: "a file of the CNI folder",
    seeds: conflists,
    words: [
      ...jsonWords,
      '"plugins":[',
      '"delegates":[',
      '"type":"ambient-cni"',
      '"type":"istio-cni"',
      '"cniVersion":',
      '"name":"n"',
      '"disableCheck":',
      "\r\n",
      "\t",
    ],
    run: runConflist,
  },
  {
    name: "crio-conf",
    whose: "a configuration file of CRI-O's",
    seeds: () => [
      "[crio.network]\ncni_default_network = \"net\"\nnetwork_dir = '/etc/cni/net.d'\n",
      '[crio]\nnetwork."cni_default_network" = """\na\n"""\n[[a]]\n',
    ],
    words: ["[crio.network]", "cni_default_network", "=", '"""', "'''", "[[", "]]", "\\", "#", "\n"],
    run: (input) => {
      for (const value of Object.values(parseCrioConf(Buffer.from(input).toString())))
        assert.equal(typeof value, "string");
    },
  },
  {
    name: "http-request",
    whose: "a peer of a port or socket",
    seeds: () => [
      "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
      "POST /cni HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nCNI-COMMAND: ADD\r\n\r\nabc",
      "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    words: [
      "\r\n\r\n",
      "\r\n",
      "Content-Length: ",
      "content-length:",
      "Transfer-Encoding: chunked",
      "GET ",
      " HTTP/1.1",
      "\n",
      ":",
    ],
    run: runHttp,
  },
];
