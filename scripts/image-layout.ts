// SPDX-License-Identifier: Apache-2.0
// Packs layers into an OCI image layout in one tar file, which needs neither a registry nor a daemon.
// Source: OCI Image Format Specification 1.1, image-layout.md, manifest.md, config.md, annotations.md.
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { type TarEntry, writeTar } from "./image-tar.ts";

/** What goes into an image. */
export interface ImageParts {
  /** Name and tag under which the archive is imported, for example `localhost/ambient-cni:0.1.0`. */
  readonly tag: string;
  readonly architecture: "amd64" | "arm64";
  /** From the bottom up; a layer that did not change is not fetched again. */
  readonly layers: readonly { readonly comment: string; readonly entries: readonly TarEntry[] }[];
  readonly entrypoint: readonly string[];
  readonly env: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** Time of every file and of the image. */
  readonly timeSeconds: number;
}

/** An image as one archive. */
export interface PackedImage {
  readonly archive: Buffer;
  /** Digest of the manifest: what `image@sha256:…` names. */
  readonly digest: string;
  /** Digests of the layers as they are fetched, from the bottom up. */
  readonly layers: readonly string[];
  /** What a node has to fetch: all layers, compressed. */
  readonly compressedBytes: number;
  /** What the layers take on a node's disk. */
  readonly unpackedBytes: number;
}

interface Blob {
  readonly digest: string;
  readonly data: Buffer;
}

const manifestType = "application/vnd.oci.image.manifest.v1+json";
const configType = "application/vnd.oci.image.config.v1+json";
const layerType = "application/vnd.oci.image.layer.v1.tar+gzip";

/** Packs an image; equal parts give equal bytes with the same Node. */
export function packImage(parts: ImageParts): PackedImage {
  const layers = parts.layers.map(({ comment, entries }) => {
    const tar = writeTar(entries, { mtimeSeconds: parts.timeSeconds });
    return { comment, diffId: sha256(tar), bytes: tar.length, blob: blobOf(gzipSync(tar)) };
  });
  const config = jsonBlob(imageConfig(parts, layers));
  const manifest = jsonBlob({
    schemaVersion: 2,
    mediaType: manifestType,
    config: descriptor(configType, config),
    layers: layers.map(({ blob }) => descriptor(layerType, blob)),
    annotations: parts.labels,
  });
  const blobs = [config, manifest, ...layers.map(({ blob }) => blob)];
  return {
    archive: archiveOf(parts, { blobs, config, manifest, layers: layers.map(({ blob }) => blob) }),
    digest: manifest.digest,
    layers: layers.map(({ blob }) => blob.digest),
    compressedBytes: layers.reduce((total, { blob }) => total + blob.data.length, 0),
    unpackedBytes: layers.reduce((total, { bytes }) => total + bytes, 0),
  };
}

function imageConfig(parts: ImageParts, layers: readonly { comment: string; diffId: string }[]): object {
  const created = new Date(parts.timeSeconds * 1000).toISOString();
  return {
    created,
    architecture: parts.architecture,
    os: "linux",
    config: {
      User: "0:0",
      Env: parts.env,
      Entrypoint: parts.entrypoint,
      WorkingDir: "/",
      Labels: parts.labels,
    },
    rootfs: { type: "layers", diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(({ comment }) => ({ created, created_by: comment })),
  };
}

function archiveOf(
  { tag, architecture, timeSeconds }: ImageParts,
  image: { blobs: readonly Blob[]; config: Blob; manifest: Blob; layers: readonly Blob[] },
): Buffer {
  const index = {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      {
        ...descriptor(manifestType, image.manifest),
        platform: { architecture, os: "linux" },
        // the first is read by containerd, the second by everybody else
        annotations: {
          "io.containerd.image.name": tag,
          "org.opencontainers.image.ref.name": tag.slice(tag.lastIndexOf(":") + 1),
        },
      },
    ],
  };
  // read by those who know no image layout. Source: Docker Image Specification v1.2
  const dockerArchive = [
    { Config: blobPath(image.config), RepoTags: [tag], Layers: image.layers.map(blobPath) },
  ];
  const files: Record<string, string> = {
    "oci-layout": JSON.stringify({ imageLayoutVersion: "1.0.0" }),
    "index.json": JSON.stringify(index),
    "manifest.json": JSON.stringify(dockerArchive),
  };
  const entries: TarEntry[] = Object.entries(files).map(([path, text]) => ({
    path,
    kind: "file",
    data: Buffer.from(text),
    mode: 0o644,
  }));
  for (const blob of image.blobs) {
    entries.push({ path: blobPath(blob), kind: "file", data: blob.data, mode: 0o644 });
  }
  return writeTar(entries, { mtimeSeconds: timeSeconds });
}

function descriptor(mediaType: string, blob: Blob): object {
  return { mediaType, digest: blob.digest, size: blob.data.length };
}

function blobPath(blob: Blob): string {
  return `blobs/${blob.digest.replace(":", "/")}`;
}

function jsonBlob(value: unknown): Blob {
  return blobOf(Buffer.from(JSON.stringify(value)));
}

function blobOf(data: Buffer): Blob {
  return { digest: sha256(data), data };
}

function sha256(data: Buffer): string {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}
