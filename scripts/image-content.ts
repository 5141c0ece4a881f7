// SPDX-License-Identifier: Apache-2.0
// What is in the agent's image: the one list that deploy/Dockerfile and the archive without a registry are made from.
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { machineFile, neededLibraries, owningPackages, packagePapers } from "./image-packages.ts";
import {
  type BundledPackage,
  bundledComponents,
  debianComponent,
  debianComponents,
  imageSbom,
  type SbomComponent,
} from "./image-sbom.ts";
import type { TarEntry } from "./image-tar.ts";

/** Folder of the agent in the image: the bundle finds addon and launcher beside itself. */
export const agentFolder = "usr/local/lib/ambient-cni";

/** Environment of every process in the image. */
export const imageEnvironment = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  // glibc gives each thread that asks at the same moment an arena of its own, which keeps what was once used in it: 3.4 of the 77 MB of an
  // agent that has just started. Source: mallopt(3), M_ARENA_MAX
  MALLOC_ARENA_MAX: "1",
} as const;

const variants = ["nft", "legacy"] as const;
const families = ["iptables", "ip6tables"] as const;

/** Programs the agent starts. Source: src/netfilter/variant-tools.ts, src/probes/iptables-host.ts */
const programs = [
  "/usr/sbin/xtables-nft-multi",
  "/usr/sbin/xtables-legacy-multi",
  "/usr/sbin/nft",
  "/usr/sbin/ipset",
  "/usr/bin/nsenter",
  // the self-test tries kernel features in a namespace made for it
  "/usr/bin/unshare",
];

/** The lower layer: what changes with Debian and Node only. @throws Error naming what is missing on this machine */
export function systemEntries(root: string): TarEntry[] {
  const node = nodePackage(root);
  const missing = programs.filter((path) => !existsSync(path));
  if (missing.length > 0) {
    throw new Error(
      `Cannot build the image: ${missing.join(", ")} missing; install iptables, nftables, ipset and util-linux`,
    );
  }
  const modules = xtablesModules();
  const binaries = [...programs, ...modules];
  const libraries = neededLibraries([...binaries, join(node, "bin/node")]);
  const packages = owningPackages([...binaries, ...libraries]);
  return [
    ...binaries.map((path) => machineFile(path)),
    ...libraries.map((path) => machineFile(path)),
    { path: "usr/local/bin/node", kind: "file", data: readFileSync(join(node, "bin/node")), mode: 0o755 },
    ...iptablesNames(),
    ...skeleton(),
    ...packagePapers(packages),
    ...paper(join(node, "LICENSE"), "usr/share/doc/node/copyright"),
  ];
}

/** The upper layer: the agent itself. */
export function agentEntries(root: string): TarEntry[] {
  const file = (path: string, source: string, mode: number): TarEntry => {
    const place = join(root, source);
    if (!existsSync(place))
      throw new Error(`Cannot build the image: "${source}" is missing; run npm run setup`);
    return { path, kind: "file", data: readFileSync(place), mode };
  };
  return [
    file(`${agentFolder}/ambient-cni.js`, "dist/ambient-cni.js", 0o644),
    file(`${agentFolder}/ambient.node`, "dist/ambient.node", 0o644),
    file(`${agentFolder}/ambient-cni`, "plugin/build/ambient-cni", 0o755),
    text(`${agentFolder}/package.json`, '{ "type": "module" }\n'),
    file("usr/local/bin/ambient-cni", "deploy/image/ambient-cni", 0o755),
    file("usr/local/bin/install-cni", "deploy/image/install-cni", 0o755),
    file("usr/share/doc/ambient-cni/copyright", "LICENSE", 0o644),
    ...bundledLicences(root),
  ];
}

/** Where the image says what it is made of. */
const sbomPath = "usr/share/sbom/ambient-cni.cdx.json";

/** What the image is made of, told from what is in it, and the same as a file for it. */
export function sbomOf(
  root: string,
  { version, entries }: { version: string; entries: readonly TarEntry[] },
): { components: SbomComponent[]; entry: TarEntry } {
  const node = nodeVersion(root).replace(/^v/, "");
  const npmName = `node-linux-${process.arch}`;
  const lock = readLock(root);
  const components = [
    ...debianComponents(entries),
    ...staticLibraries(root),
    ...bundledComponents(readBundled(root), lock),
    {
      name: "node",
      version: node,
      purl: `pkg:npm/${npmName}@${node}`,
      cpe: `cpe:2.3:a:nodejs:node.js:${node}:*:*:*:*:*:*:*`,
      license: "",
      integrity: lock[`node_modules/${npmName}`]?.integrity ?? "",
    },
  ];
  return { components, entry: text(sbomPath, imageSbom({ version, components })) };
}

function readLock(root: string): Readonly<Record<string, { readonly integrity?: string }>> {
  return JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")).packages;
}

function readBundled(root: string): BundledPackage[] {
  return JSON.parse(readFileSync(join(root, "dist/bundled-packages.json"), "utf8"));
}

/** What the launcher was linked with; no file of it is in the image. */
function staticLibraries(root: string): SbomComponent[] {
  const name = existsSync(join(root, "plugin/build/.built-with-musl-gcc")) ? "musl-dev" : "libc6-dev";
  const status = execFileSync("dpkg-query", ["-s", name], { encoding: "utf8" });
  return [debianComponent(status, readFileSync("/usr/lib/os-release", "utf8"))];
}

function nodePackage(root: string): string {
  const folder = join(root, "node_modules", `node-linux-${process.arch}`);
  if (existsSync(join(folder, "bin/node"))) return folder;
  throw new Error(`Cannot build the image: there is no Node in "${folder}"; run npm run setup`);
}

/** Matches and targets are loaded by name at run time, so no list of libraries names them. */
function xtablesModules(): string[] {
  const folder = `/usr/lib/${debianTriplet()}/xtables`;
  const names = readdirSync(folder).filter((name) => /^lib(xt|ipt|ip6t)_\w+\.so$/.test(name));
  if (names.length === 0) throw new Error(`Cannot build the image: no iptables extensions in "${folder}"`);
  return names.sort().map((name) => join(folder, name));
}

function debianTriplet(): string {
  return process.arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
}

/** Each variant under the names that carry it, and nft under the plain ones too, for people. */
function iptablesNames(): TarEntry[] {
  const links: TarEntry[] = [];
  for (const family of families) {
    for (const tool of ["", "-save", "-restore"]) {
      for (const variant of variants) {
        const target = `xtables-${variant}-multi`;
        links.push({ path: `usr/sbin/${family}-${variant}${tool}`, kind: "link", target });
      }
      links.push({ path: `usr/sbin/${family}${tool}`, kind: "link", target: `${family}-nft${tool}` });
    }
  }
  return links;
}

function skeleton(): TarEntry[] {
  const links = ["bin", "sbin", "lib", "lib64"].map(
    (name): TarEntry => ({ path: name, kind: "link", target: `usr/${name}` }),
  );
  const folders = ["dev", "etc", "host", "proc", "root", "run", "sys", "usr/lib64", "var"].map(
    (path): TarEntry => ({ path, kind: "folder", mode: path === "root" ? 0o700 : 0o755 }),
  );
  return [
    ...links,
    { path: "var/run", kind: "link", target: "../run" },
    ...folders,
    { path: "tmp", kind: "folder", mode: 0o1777 },
    text("etc/passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\n"),
    text("etc/group", "root:x:0:\n"),
    text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    text("etc/protocols", "ip 0\nicmp 1\ntcp 6\nudp 17\nipv6-icmp 58\nsctp 132\n"),
    machineFile("/etc/debian_version", { mode: 0o644 }),
    machineFile("/usr/lib/os-release", { mode: 0o644 }),
    { path: "etc/os-release", kind: "link", target: "../usr/lib/os-release" },
  ];
}

/** Licences of the packages that the bundle can hold: all that are not for development only. */
function bundledLicences(root: string): TarEntry[] {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
    packages: Record<string, { dev?: boolean; optional?: boolean; devOptional?: boolean }>;
  };
  return Object.entries(lock.packages).flatMap(([path, { dev, optional, devOptional }]) => {
    if (path === "" || dev || optional || devOptional || !existsSync(join(root, path))) return [];
    const name = readdirSync(join(root, path)).find((entry) => /^(licen[cs]e|copying)/i.test(entry));
    const short = path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length).replace("/", "-");
    const nested = path.includes("/node_modules/")
      ? `-${path.split("node_modules/")[1]?.replaceAll("/", "")}`
      : "";
    return name === undefined
      ? []
      : paper(join(root, path, name), `usr/share/doc/ambient-cni/bundled/${short}${nested}`);
  });
}

function paper(source: string, path: string): TarEntry[] {
  return existsSync(source) ? [{ path, kind: "file", data: readFileSync(source), mode: 0o644 }] : [];
}

function text(path: string, content: string): TarEntry {
  return { path, kind: "file", data: Buffer.from(content), mode: 0o644 };
}

/** Labels of the image. Source: OCI Image Format Specification 1.1, annotations.md */
export function imageLabels(options: {
  version: string;
  revision: string | undefined;
}): Record<string, string> {
  return {
    "org.opencontainers.image.title": "ambient-cni",
    "org.opencontainers.image.description": "CNI node agent and chained CNI plugin for Istio's ambient mesh",
    "org.opencontainers.image.version": options.version,
    "org.opencontainers.image.licenses": "Apache-2.0",
    "org.opencontainers.image.base.name": "debian:bookworm-slim",
    ...(options.revision === undefined ? {} : { "org.opencontainers.image.revision": options.revision }),
  };
}

/** Version of the Node that the image gets. */
export function nodeVersion(root: string): string {
  return execFileSync(join(nodePackage(root), "bin/node"), ["--version"], { encoding: "utf8" }).trim();
}
