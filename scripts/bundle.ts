// SPDX-License-Identifier: Apache-2.0
// Bundles the agent into dist/ambient-cni.js, with the addon beside it: that folder is all a node needs of it.
import { chmodSync, copyFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, sep } from "node:path";
import { build, type Metafile, type Plugin } from "esbuild";
import { buildDashboardPage } from "./dashboard-page.ts";
import type { BundledPackage } from "./image-sbom.ts";

const root = join(import.meta.dirname, "..");
const dist = join(root, "dist");
const clientDist = join(root, "node_modules/@kubernetes/client-node/dist") + sep;

/** What the API client's configuration imports for uses the agent has none for, and the names it takes from there. */
const absent: Readonly<Record<string, readonly string[]>> = {
  undici: ["Agent", "ProxyAgent"],
  "openid-client": ["Configuration", "discovery", "refreshTokenGrant"],
  "jsonpath-plus": ["JSONPath"],
  socks: ["SocksClient"],
  "socks-proxy-agent": ["SocksProxyAgent"],
  "./gen/index.js": ["createConfiguration", "ServerConfiguration"],
  "./middleware.js": ["setHeaderMiddleware"],
};

/**
 * Takes of @kubernetes/client-node only how it reads configuration, TLS and credentials. The generated classes and a
 * second HTTP client would cost 20 MB of every node's memory. A kubeconfig that needs what is left out (SOCKS proxies,
 * the OIDC and GCP providers that Kubernetes itself dropped in 1.26) gets an error that says so.
 */
const leanKubeConfig: Plugin = {
  name: "lean-kube-config",
  setup(plugin) {
    plugin.onResolve({ filter: /^@kubernetes\/client-node$/ }, () => ({
      path: join(clientDist, "config.js"),
    }));
    plugin.onResolve({ filter: /./ }, ({ importer, path }) =>
      importer.startsWith(clientDist) && path in absent ? { path, namespace: "absent" } : undefined,
    );
    plugin.onLoad({ filter: /./, namespace: "absent" }, ({ path }) => {
      const names = (absent[path] ?? []).map((name) => `absent as ${name}`).join(", ");
      const message = JSON.stringify(
        `ambient-cni is built without "${path}"; use a token, a certificate or an exec plugin`,
      );
      return {
        loader: "js",
        contents: `function absent() { throw new Error(${message}); }\nexport { ${names} };`,
      };
    });
  },
};

/** An `import` of node:http reads all its exports, the lazy ones too, and so loads Node's own fetch: 5 MB. */
const lazyHttp: Plugin = {
  name: "lazy-http",
  setup(plugin) {
    plugin.onResolve({ filter: /^(node:)?https?$/ }, ({ path }) => ({
      path: path.startsWith("node:") ? path : `node:${path}`,
      namespace: "builtin",
    }));
    plugin.onLoad({ filter: /./, namespace: "builtin" }, ({ path }) => ({
      loader: "js",
      contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
    }));
  },
};

/** Of what is in the output, not of what the lock file would allow; by name. */
function bundledPackages({ outputs }: Metafile): BundledPackage[] {
  const inputs = Object.values(outputs).flatMap((output) => Object.entries(output.inputs));
  const paths = inputs.flatMap(([file, { bytesInOutput }]) => {
    const path = /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0];
    return path === undefined || bytesInOutput === 0 ? [] : [path];
  });
  return [...new Set(paths)].sort().map((path) => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, path, "package.json"), "utf8"));
    return { name, version, license: typeof license === "string" ? license : "", path };
  });
}

mkdirSync(dist, { recursive: true });
const { metafile } = await build({
  // comments in the output name files from here, wherever this is started
  absWorkingDir: root,
  metafile: true,
  entryPoints: [join(root, "src/main.ts")],
  outfile: join(dist, "ambient-cni.js.new"),
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
  legalComments: "eof",
  plugins: [leanKubeConfig, lazyHttp],
  define: { EMBEDDED_PAGE: JSON.stringify(await buildDashboardPage()) },
  // CommonJS dependencies inside an ES module still call require
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
  },
  logLevel: "warning",
});
// V8 keeps a source with one character beyond Latin-1 at two bytes each: 2 MB of every node's memory. What is left are comments
const written = join(dist, "ambient-cni.js.new");
const escaped = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
writeFileSync(written, readFileSync(written, "utf8").replaceAll(/[^\0-\x7f]/g, escaped));
writeFileSync(join(dist, "bundled-packages.json"), `${JSON.stringify(bundledPackages(metafile), null, 2)}\n`);
// each file is swapped in whole: an agent that starts at this moment finds the old or the new one
copyFileSync(join(root, "native/build/ambient.node"), join(dist, "ambient.node.new"));
renameSync(join(dist, "ambient.node.new"), join(dist, "ambient.node"));
chmodSync(join(dist, "ambient-cni.js.new"), 0o755);
renameSync(join(dist, "ambient-cni.js.new"), join(dist, "ambient-cni.js"));
