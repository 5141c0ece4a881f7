// SPDX-License-Identifier: Apache-2.0
// The one image of the cluster, made without registry or daemon: a static busybox that serves as sandbox and as application.
import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, rename, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../support/node/run.ts";

/** Name of the image. A registry on this machine would be asked for it if it were missing, which fails at once. */
export const boxImage = "localhost/box:1";

const applets = ["sh", "sleep", "httpd", "wget", "nc", "ip", "cat", "echo", "ls", "true", "false"];

/**
 * Writes the image as an archive that `ctr images import` takes.
 * Source: Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
 *
 * @param folder empty, for the archive and what goes into it
 * @returns path of the archive
 */
export async function makeBoxImage(folder: string): Promise<string> {
  const root = join(folder, "root");
  for (const part of ["bin", "etc", "tmp", "www"]) await mkdir(join(root, part), { recursive: true });
  await copyFile("/bin/busybox", join(root, "bin/busybox"));
  for (const applet of applets) await symlink("busybox", join(root, "bin", applet));
  await writeFile(join(root, "etc/passwd"), "root:x:0:0:root:/:/bin/sh\n");
  await writeFile(join(root, "www/index.html"), "hello\n");
  const owner = ["--owner=0", "--group=0", "--sort=name"];
  await run(["tar", "-C", root, ...owner, "-cf", join(folder, "layer.tar"), "."]);
  const layer = await sha256(join(folder, "layer.tar"));
  const config = {
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    os: "linux",
    // what a sandbox runs; containers say themselves what they run
    config: { Entrypoint: ["/bin/sleep", "2147483647"], Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: [`sha256:${layer}`] },
  };
  await writeFile(join(folder, "config"), JSON.stringify(config));
  const configName = `${await sha256(join(folder, "config"))}.json`;
  await rename(join(folder, "config"), join(folder, configName));
  const manifest = [{ Config: configName, RepoTags: [boxImage], Layers: ["layer.tar"] }];
  await writeFile(join(folder, "manifest.json"), JSON.stringify(manifest));
  const archive = join(folder, "box.tar");
  await run(["tar", "-C", folder, "-cf", archive, configName, "layer.tar", "manifest.json"]);
  return archive;
}

async function sha256(path: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}
