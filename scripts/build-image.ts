// SPDX-License-Identifier: Apache-2.0
// Builds the agent's image as an OCI archive, from this machine's Debian and node packages: no registry, no daemon.
import { chmodSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import {
  agentEntries,
  imageEnvironment,
  imageLabels,
  nodeVersion,
  sbomOf,
  systemEntries,
} from "./image-content.ts";
import { packImage } from "./image-layout.ts";
import { imageSbom } from "./image-sbom.ts";
import { type TarEntry, withFolders } from "./image-tar.ts";

const root = join(import.meta.dirname, "..");

const help = `usage: node scripts/build-image.ts [OPTION...]

Builds the agent's image for this machine's architecture; run "npm run setup" first.

  --tag NAME:TAG     name in the archive (default localhost/ambient-cni:VERSION)
  --output FILE      archive to write (default build/ambient-cni-image.tar)
  --rootfs FOLDER    write the content into an empty folder instead of an archive
  --revision COMMIT  label the image with the commit it is made from
  --json             print one JSON object

What the image is made of is written beside the archive as FILE.cdx.json (CycloneDX), and into the image.
The archive is an OCI image layout: "ctr -n k8s.io images import FILE", "podman load -i FILE", "kind load image-archive
FILE". Equal input gives an equal digest; SOURCE_DATE_EPOCH sets the time of all files, otherwise it is 1970.
`;

interface Options {
  readonly tag: string;
  readonly output: string;
  readonly revision: string | undefined;
  readonly json: boolean;
}

function main(): void {
  const { values } = parseArgs({
    options: {
      tag: { type: "string" },
      output: { type: "string" },
      rootfs: { type: "string" },
      revision: { type: "string" },
      json: { type: "boolean" },
      help: { type: "boolean" },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return;
  }
  if (values.rootfs !== undefined) {
    const folder = resolve(values.rootfs);
    const entries = [...systemEntries(root), ...agentEntries(root)];
    writeRootfs([...entries, sbomOf(root, { version: packageVersion(), entries }).entry], folder);
    process.stdout.write(`content of the image is in ${folder}\n`);
    return;
  }
  const tag = values.tag ?? `localhost/ambient-cni:${packageVersion()}`;
  if (!/^[^\s:]+(:\d+\/[^\s:]+)?:[\w][\w.-]{0,127}$/.test(tag)) {
    throw new Error(`Cannot name the image "${tag}": expected NAME:TAG`);
  }
  const output = resolve(values.output ?? join(root, "build/ambient-cni-image.tar"));
  buildArchive({ tag, output, revision: values.revision, json: values.json === true });
}

function buildArchive(options: Options): void {
  const [system, agent] = [systemEntries(root), agentEntries(root)];
  const version = packageVersion();
  const sbom = sbomOf(root, { version, entries: [...system, ...agent] });
  const image = packImage({
    tag: options.tag,
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    layers: [
      { comment: `Debian packages and Node ${nodeVersion(root)}`, entries: system },
      { comment: `ambient-cni ${version}`, entries: [...agent, sbom.entry] },
    ],
    entrypoint: ["ambient-cni", "agent"],
    env: Object.entries(imageEnvironment).map(([name, value]) => `${name}=${value}`),
    labels: imageLabels({ version, revision: options.revision }),
    timeSeconds: Number(process.env.SOURCE_DATE_EPOCH ?? 0),
  });
  mkdirSync(dirname(options.output), { recursive: true });
  const { digest, layers, compressedBytes, unpackedBytes } = image;
  const sbomFile = `${options.output}.cdx.json`;
  replaceFile(options.output, image.archive);
  replaceFile(sbomFile, imageSbom({ version, components: sbom.components, digest }));
  if (options.json) {
    const { tag, output } = options;
    const facts = { tag, output, sbom: sbomFile, digest, layers, compressedBytes, unpackedBytes };
    process.stdout.write(`${JSON.stringify(facts)}\n`);
    return;
  }
  process.stdout.write(
    `${options.tag}\n  ${digest}\n  ${megabytes(compressedBytes)} compressed, ${megabytes(unpackedBytes)} unpacked\n` +
      `  ${options.output}\n  ${sbomFile}: ${sbom.components.length} components\n`,
  );
}

/** Whoever reads the file meanwhile has the whole old one. */
function replaceFile(path: string, content: string | Uint8Array): void {
  const unfinished = `${path}.${process.pid}.tmp`;
  writeFileSync(unfinished, content);
  renameSync(unfinished, path);
}

/** Writes the content of the image into a folder that is not there yet or empty. */
function writeRootfs(entries: readonly TarEntry[], folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const entry of withFolders(entries)) {
    const path = join(folder, entry.path);
    if (entry.kind === "folder") {
      mkdirSync(path);
      // mkdir leaves out what umask says
      chmodSync(path, entry.mode);
    } else if (entry.kind === "link") symlinkSync(entry.target, path);
    else writeFileSync(path, entry.data, { mode: entry.mode, flag: "wx" });
  }
}

function packageVersion(): string {
  return (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }).version;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

try {
  process.umask(0o022);
  main();
} catch (error) {
  process.stderr.write(`build-image: ${(error as Error).message}\n`);
  process.exit(1);
}
