// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { packImage } from "../../scripts/image-layout.ts";
import { type TarEntry, writeTar } from "../../scripts/image-tar.ts";

const folder = mkdtempSync(join(tmpdir(), "image-archive-"));
afterAll(() => rmSync(folder, { recursive: true }));

const entries: readonly TarEntry[] = [
  { path: "usr/bin/tool", kind: "file", data: Buffer.from("#!\n"), mode: 0o755 },
  { path: "bin", kind: "link", target: "usr/bin" },
  { path: "tmp", kind: "folder", mode: 0o1777 },
  {
    path: `deep/${"folder/".repeat(12)}${"f".repeat(60)}`,
    kind: "file",
    data: Buffer.alloc(513, "x"),
    mode: 0o644,
  },
];

function tar(...args: readonly string[]): string {
  return execFileSync("tar", args, { encoding: "utf8", env: { PATH: process.env.PATH, TZ: "UTC" } });
}

describe("writeTar", () => {
  test("writes what tar reads: owners, modes, links, folders on the way, long paths", () => {
    const path = join(folder, "one.tar");
    writeFileSync(path, writeTar(entries, { mtimeSeconds: 86400 }));
    const lines = tar("-tvf", path).trimEnd().split("\n");
    const expected = [
      "lrwxrwxrwx root/root         0 1970-01-02 00:00 bin -> usr/bin",
      "drwxrwxrwt root/root         0 1970-01-02 00:00 tmp/",
      "drwxr-xr-x root/root         0 1970-01-02 00:00 usr/bin/",
      "-rwxr-xr-x root/root         3 1970-01-02 00:00 usr/bin/tool",
      `-rw-r--r-- root/root       513 1970-01-02 00:00 ${entries[3]?.path}`,
    ];
    for (const line of expected) expect(lines).toContain(line);
    expect(tar("-xOf", path, "usr/bin/tool")).toBe("#!\n");
  });

  test("writes the same bytes whatever the order of the entries", () => {
    const reversed = writeTar(entries.toReversed(), { mtimeSeconds: 0 });
    expect(reversed.equals(writeTar(entries, { mtimeSeconds: 0 }))).toBe(true);
  });

  test.each([
    [
      "one path twice",
      [
        { path: "a", kind: "link", target: "b" } as const,
        { path: "a", kind: "folder", mode: 0o755 } as const,
      ],
    ],
    ["a name that is too long", [{ path: "n".repeat(101), kind: "folder", mode: 0o755 } as const]],
    ["a target that is too long", [{ path: "a", kind: "link", target: "t".repeat(101) } as const]],
  ])("refuses %s", (_, wrong) => {
    expect(() => writeTar(wrong, { mtimeSeconds: 0 })).toThrow(/^Cannot /);
  });
});

describe("packImage", () => {
  const parts = {
    tag: "localhost/tool:1.2",
    architecture: "arm64",
    layers: [
      { comment: "below", entries: entries.slice(0, 1) },
      { comment: "above", entries: entries.slice(1) },
    ],
    entrypoint: ["tool"],
    env: ["PATH=/bin"],
    labels: { "org.opencontainers.image.title": "tool" },
    timeSeconds: 0,
  } as const;
  const sha256 = (data: Uint8Array) => `sha256:${createHash("sha256").update(data).digest("hex")}`;

  test("makes a layout in which every name is the digest of what it names", () => {
    const image = packImage(parts);
    const path = join(folder, "image.tar");
    writeFileSync(path, image.archive);
    tar("-xf", path, "-C", folder);
    const blob = (digest: string) => readFileSync(join(folder, "blobs", digest.replace(":", "/")));
    for (const name of readdirSync(join(folder, "blobs/sha256"))) {
      expect(sha256(blob(`sha256:${name}`))).toBe(`sha256:${name}`);
    }
    const [entry] = JSON.parse(readFileSync(join(folder, "index.json"), "utf8")).manifests;
    expect(entry).toMatchObject({
      digest: image.digest,
      platform: { architecture: "arm64", os: "linux" },
      annotations: {
        "io.containerd.image.name": "localhost/tool:1.2",
        "org.opencontainers.image.ref.name": "1.2",
      },
    });
    const manifest = JSON.parse(blob(entry.digest).toString());
    const config = JSON.parse(blob(manifest.config.digest).toString());
    expect(config.config).toMatchObject({ Entrypoint: ["tool"], User: "0:0" });
    const layers: { digest: string; size: number }[] = manifest.layers;
    expect(layers.map(({ digest }) => sha256(gunzipSync(blob(digest))))).toEqual(config.rootfs.diff_ids);
    expect(layers.reduce((total, { size }) => total + size, 0)).toBe(image.compressedBytes);
    const [docker] = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
    expect(docker.RepoTags).toEqual(["localhost/tool:1.2"]);
    expect(docker.Layers.map((layer: string) => sha256(readFileSync(join(folder, layer))))).toEqual(
      layers.map(({ digest }) => digest),
    );
  });

  test("gives equal bytes for equal parts, and another digest for another byte", () => {
    const again = {
      ...parts,
      layers: parts.layers.map((layer) => ({ ...layer, entries: layer.entries.toReversed() })),
    };
    expect(packImage(again).archive.equals(packImage(parts).archive)).toBe(true);
    expect(packImage({ ...parts, timeSeconds: 1 }).digest).not.toBe(packImage(parts).digest);
  });
});
