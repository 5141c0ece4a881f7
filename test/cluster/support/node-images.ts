// SPDX-License-Identifier: Apache-2.0
// The agent's image as users build it, and one of the stand-in ztunnel on top of the same system layer.
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { type TarEntry, writeTar } from "../../../scripts/image-tar.ts";
import { run } from "../../support/node/run.ts";

const root = join(import.meta.dirname, "../../..");
/** Names of the images; nobody is asked for them. */
export const agentImage = "localhost/ambient-cni:0.1.0";
export const ztunnelImage = "localhost/ztunnel:1";
const ztunnelFolder = "usr/local/lib/ztunnel";

/** The archives, ready for `ctr images import`. */
export interface NodeImages {
  readonly agent: string;
  readonly ztunnel: string;
}

/** Builds both. @param folder goes away with the node */
export async function buildNodeImages(folder: string): Promise<NodeImages> {
  await mkdir(folder);
  const agent = join(folder, "agent.tar");
  const builder = join(root, "scripts/build-image.ts");
  await run([process.execPath, builder, "--tag", agentImage, "--output", agent], { timeoutMs: 120_000 });
  const ztunnel = join(folder, "ztunnel.tar");
  await writeFile(ztunnel, await ztunnelArchive(await readFile(agent), await ztunnelEntries()));
  return { agent, ztunnel };
}

async function ztunnelEntries(): Promise<TarEntry[]> {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, "ztunnel-pod.ts")],
    bundle: true,
    write: false,
    platform: "node",
    format: "esm",
    target: "node24",
    logLevel: "warning",
  });
  const file = (name: string, data: Uint8Array): TarEntry => ({
    path: `${ztunnelFolder}/${name}`,
    kind: "file",
    data,
    mode: 0o644,
  });
  return [
    file("ztunnel.js", outputFiles[0]?.contents ?? new Uint8Array()),
    file("package.json", Buffer.from('{ "type": "module" }\n')),
    // the addon is looked for beside the bundle
    file("ambient.node", await readFile(join(root, "native/build/ambient.node"))),
  ];
}

interface Descriptor {
  readonly digest: string;
  readonly size: number;
  readonly mediaType: string;
}

/** An image of the agent's lowest layer and one more, which the runtime then need not unpack twice. */
async function ztunnelArchive(agent: Buffer, entries: readonly TarEntry[]): Promise<Buffer> {
  const files = readTar(agent);
  const json = (path: string) => JSON.parse(files.get(path)?.toString() ?? "");
  const blob = ({ digest }: Descriptor) => blobPath(digest);
  const manifest = json(blob(json("index.json").manifests[0]));
  const config = json(blob(manifest.config));
  const system = manifest.layers[0] as Descriptor;
  const layer = writeTar(entries, { mtimeSeconds: 0 });
  const blobs = new Map([[system.digest, files.get(blob(system)) ?? Buffer.alloc(0)]]);
  const add = (mediaType: string, data: Buffer): Descriptor => {
    const digest = sha256(data);
    blobs.set(digest, data);
    return { mediaType, digest, size: data.length };
  };
  const ownLayer = add(system.mediaType, gzipSync(layer));
  const ownConfig = add(
    manifest.config.mediaType,
    jsonBytes({
      architecture: config.architecture,
      os: config.os,
      config: { Env: config.config.Env, Entrypoint: ["/usr/local/bin/node", `/${ztunnelFolder}/ztunnel.js`] },
      rootfs: { type: "layers", diff_ids: [config.rootfs.diff_ids[0], sha256(layer)] },
    }),
  );
  const { schemaVersion, mediaType } = manifest;
  const ownManifest = { schemaVersion, mediaType, config: ownConfig, layers: [system, ownLayer] };
  const described = add(mediaType, jsonBytes(ownManifest));
  const annotations = { "io.containerd.image.name": ztunnelImage };
  const file = (path: string, data: Buffer): TarEntry => ({ path, kind: "file", data, mode: 0o644 });
  const archive = [
    file("oci-layout", jsonBytes({ imageLayoutVersion: "1.0.0" })),
    file("index.json", jsonBytes({ schemaVersion: 2, manifests: [{ ...described, annotations }] })),
    ...[...blobs].map(([digest, data]) => file(blobPath(digest), data)),
  ];
  return writeTar(archive, { mtimeSeconds: 0 });
}

/** Files of an archive by path; only what `writeTar` writes is understood. */
function readTar(archive: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  const text = (at: number, length: number) =>
    archive
      .toString("latin1", at, at + length)
      .split("\0")[0]
      ?.trim() ?? "";
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12), 8);
    const path = [text(at + 345, 155), text(at, 100)].filter((part) => part !== "").join("/");
    files.set(path, archive.subarray(at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}

const blobPath = (digest: string): string => `blobs/${digest.replace(":", "/")}`;
const jsonBytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const sha256 = (data: Uint8Array): string => `sha256:${createHash("sha256").update(data).digest("hex")}`;
