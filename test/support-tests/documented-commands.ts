// SPDX-License-Identifier: Apache-2.0
// The commands that the pages for people tell to type, and who runs each: a test that is named, this machine now, or a cluster.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A line that somebody is told to type. */
export interface DocumentedCommand {
  readonly page: string;
  /** Without a prompt and without the comment behind it; a pipe over two lines is one. */
  readonly text: string;
}

/** Who holds a command to what it says. */
export type Holder =
  /** A test that runs it, and words that the file has. */
  | { readonly by: "test"; readonly file: string; readonly words: string }
  /** It is run as it stands, with these words in place of others. */
  | { readonly by: "this run"; readonly instead?: Readonly<Record<string, string>> }
  /** It needs a cluster, a registry or other people's programs: files, names and values in it are looked at. */
  | { readonly by: "its names"; readonly why: string };

/** Begins a command; `holder` is that of the first row that fits. */
export interface Row {
  readonly begins: string;
  readonly holder: Holder;
}

const testFile = (file: string, words: string): Holder => ({ by: "test", file, words });
const ci = (words: string) => testFile(".ci/run", words);
const runbook = (title: string) => testFile("test/cluster/drop-in/drop-in.inside.ts", `runbook("${title}")`);
const typed = (words: string) => testFile("test/cluster/drop-in/drop-in.inside.ts", `typed("${words}`);
const openshift = (words: string) => testFile("test/deploy/openshift.test.ts", words);
const names = (why: string): Holder => ({ by: "its names", why });

export const rows: readonly Row[] = [
  { begins: "npm run demo -- --keep", holder: testFile("test/demo/keep-up.test.ts", "is gone after Ctrl-C") },
  {
    begins: "npm run -s demo -- --exec",
    holder: testFile("test/demo/keep-up.test.ts", "npm run -s demo -- --exec verify"),
  },
  { begins: "npm run demo", holder: ci("npm run demo -- --json") },
  { begins: "npm test", holder: ci("npm test") },
  { begins: "npm run test:node", holder: ci("npm run test:node") },
  { begins: "npm run check", holder: ci("npm run check") },
  { begins: "npm run -s ambient-cni -- rules", holder: { by: "this run" } },
  {
    begins: "NODE_NAME=node1 KUBECONFIG=",
    holder: testFile("test/support/node/agent-process.ts", '"agent"'),
  },
  {
    begins: "HOST_ROOT=/ npm run -s ambient-cni -- uninstall",
    holder: testFile("test/kernel/uninstall.inside.ts", "--dry-run"),
  },
  { begins: "npx vitest run test/kernel/probes.test.ts", holder: ci("npm run test:node") },
  { begins: "node scripts/state-schema.ts", holder: { by: "this run" } },
  { begins: "NODE_OPTIONS=--inspect=127.0.0.1:9229", holder: { by: "this run", instead: { ":9229": ":0" } } },
  { begins: 'NODE_OPTIONS="--cpu-prof', holder: { by: "this run", instead: { "/tmp": "SCRATCH" } } },
  {
    begins: "npm run image -- --output",
    holder: testFile("test/deploy/image.test.ts", "scripts/build-image.ts"),
  },
  {
    begins: "sh scripts/sign-image.sh",
    holder: testFile("test/deploy/signed-image.test.ts", "what was signed is verified"),
  },
  {
    begins: "sh scripts/verify-image.sh",
    holder: testFile("test/deploy/signed-image.test.ts", "what was signed is verified"),
  },
  { begins: "ambient-cni status", holder: testFile("test/cli/bundle.test.ts", "status lists the pods") },
  { begins: "ambient-cni verify", holder: testFile("test/cli/bundle.test.ts", "verify finds nothing") },
  { begins: "ambient-cni doctor", holder: testFile("test/cli/bundle.test.ts", "doctor as JSON") },
  { begins: "ambient-cni debug", holder: testFile("test/cli/bundle.test.ts", "debug shows the rules") },
  { begins: "ambient-cni dashboard", holder: testFile("test/cli/bundle.test.ts", "feeds the page") },
  {
    begins: "curl -s localhost:15014/metrics",
    holder: testFile("test/status/real-agent.inside.ts", "/metrics"),
  },
  {
    begins: "curl -s --unix-socket /var/run/istio-cni/state.sock -X PUT",
    holder: testFile("test/status/state-api.test.ts", 'method: "PUT"'),
  },
  {
    begins: "curl -s --unix-socket /var/run/istio-cni/state.sock",
    holder: testFile("test/status/state-api.test.ts", "/api/v1/pods/"),
  },
  { begins: "oc debug node/NODE", holder: openshift("oc debug node/NODE -q") },
  {
    begins: "helm install ambient-cni deploy/chart -n istio-system --set global.platform=openshift",
    holder: openshift("helm install ambient-cni"),
  },
  {
    begins: "helm upgrade --install istio-cni istio/cni -n istio-cni",
    holder: openshift("helm upgrade --install istio-cni"),
  },
  { begins: "oc -n istio-system exec", holder: openshift("oc -n istio-system exec ds/ambient-cni-node") },
  {
    begins: "oc apply -f deploy/openshift/machineconfig.yaml",
    holder: openshift("oc apply -f deploy/openshift"),
  },
  {
    begins: "kubectl -n istio-system rollout status daemonset/ambient-cni-node",
    holder: typed("kubectl -n istio-system rollout status"),
  },
  {
    begins: "kubectl -n demo get pods -o custom-columns",
    holder: typed("kubectl -n demo get pods -o custom-columns"),
  },
  {
    begins: "kubectl -n istio-system exec ds/ambient-cni-node",
    holder: typed("kubectl -n istio-system exec ds/ambient-cni-node"),
  },
  {
    begins: "kubectl -n istio-system set image daemonset/istio-cni-node",
    holder: testFile("test/cluster/drop-in/drop-in.inside.ts", '["Migrate", nextImage]'),
  },
  {
    begins: "kubectl -n istio-system exec ds/istio-cni-node",
    holder: testFile("test/cluster/drop-in/drop-in.inside.ts", '["Migrate", nextImage]'),
  },
  {
    begins: "kubectl -n istio-system rollout undo daemonset/istio-cni-node",
    holder: testFile("test/cluster/drop-in/drop-in.inside.ts", '["Roll back", agentImage]'),
  },
  {
    begins: "kubectl -n istio-system rollout status daemonset/istio-cni-node",
    holder: testFile("test/cluster/drop-in/drop-in.inside.ts", '["Migrate", nextImage]'),
  },
  {
    begins: "kubectl -n istio-system delete daemonset ambient-cni-node --cascade",
    holder: runbook("Leave, with pods out of the mesh"),
  },
  { begins: "kubectl -n istio-system delete daemonset ambient-cni-node", holder: runbook("Leave") },
  { begins: "kubectl delete --ignore-not-found -f", holder: runbook("Leave") },
  { begins: "kubectl -n istio-system patch daemonset", holder: runbook("Leave, with pods out of the mesh") },
  {
    begins: "kubectl -n istio-system set env daemonset/ambient-cni-node",
    holder: runbook("Leave, with pods out of the mesh"),
  },
  {
    begins: "sed 's|localhost/ambient-cni:0.1.0|",
    holder: names("the API server takes the manifests in drop-in.cluster.ts"),
  },
  {
    begins: "helm ",
    holder: names("Helm's own packages render the chart in chart.test.ts; a release needs a cluster"),
  },
  { begins: "kubectl ", holder: names("needs a cluster") },
  {
    begins: "docker buildx build",
    holder: names("needs Docker and a registry; test/deploy/image.test.ts makes the same image"),
  },
  {
    begins: "ctr -n k8s.io images import",
    holder: testFile("test/cluster/support/kube-node.ts", '"images", "import"'),
  },
  { begins: "git tag -s v", holder: names("is the maintainer's word") },
  {
    begins: "sh scripts/release.sh",
    holder: testFile("test/deploy/release.test.ts", "takes a version that is ready"),
  },
  { begins: "kind load image-archive", holder: names("needs kind") },
  { begins: "podman load -i", holder: names("needs podman's storage") },
  { begins: "istioctl ", holder: names("is Istio's program") },
];

/** First words of blocks that nobody is to type: output, drawings, files. */
const shown = [
  "CNI ADD ─>",
  "containerd ──exec──>",
  "ok   ",
  "shop/client ",
  "{ ",
  "apiVersion: ",
  "kubelet ─>",
];

/** Pages that tell people what to type. */
export function pagesWithCommands(root: string): string[] {
  return globSync(["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md", "deploy/**/*.md"], {
    cwd: root,
  }).toSorted();
}

/** Commands of a page's blocks, indented or fenced as `sh` or `console`. @throws Error for a block that is neither commands nor in `shown` */
export function commandsOf(page: string, text: string): DocumentedCommand[] {
  return blocksOf(text).flatMap((lines) => {
    const [first = ""] = lines;
    if (shown.some((begins) => first.startsWith(begins))) return [];
    const isDialogue = first.startsWith("$ ");
    const commands = isDialogue
      ? lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2))
      : lines
          .join("\n")
          .replace(/(\||\\)\n\s*/g, "$1 ")
          .split("\n");
    return commands
      .filter((line) => line !== "")
      .map((line) => ({ page, text: line.replace(/\s+# .*$/, "").trim() }));
  });
}

/** A blank line does not end an indented block, as in Markdown; of what follows one only a dialogue's output belongs to it. */
function blocksOf(text: string): string[][] {
  const blocks: string[][] = [];
  let block: string[] | undefined;
  let fence: string | undefined;
  let wasBlank = true;
  for (const line of text.split("\n")) {
    const opened = /^```(\w*)$/.exec(line);
    if (opened !== null) {
      const isOpening = fence === undefined;
      fence = isOpening ? (opened[1] ?? "") : undefined;
      block = isOpening && /^(?:sh|console)$/.test(fence ?? "") ? [] : undefined;
      if (block !== undefined) blocks.push(block);
    } else if (fence !== undefined) block?.push(line);
    else if (line.startsWith("    ") && (block !== undefined || wasBlank)) {
      const isNew =
        block === undefined || (wasBlank && !(block[0] ?? "").startsWith("$ ") && !isShown(block));
      if (isNew) {
        block = [];
        blocks.push(block);
      }
      block?.push(line.slice(4));
    } else if (line !== "") block = undefined;
    wasBlank = line === "";
  }
  return blocks;
}

function isShown([first = ""]: readonly string[]): boolean {
  return shown.some((begins) => first.startsWith(begins));
}

/** Every command of the pages. */
export function documentedCommands(root: string): DocumentedCommand[] {
  return pagesWithCommands(root).flatMap((page) => commandsOf(page, readFileSync(join(root, page), "utf8")));
}

/** The row of a command; undefined: nobody runs it. */
export function rowOf(text: string): Row | undefined {
  return rows.find(({ begins }) => text.startsWith(begins));
}
