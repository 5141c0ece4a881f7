// SPDX-License-Identifier: Apache-2.0
// An image that was signed is verified; one that was changed afterwards, in any of its parts, or signed by somebody else, is not.
import { appendFileSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { packImage } from "../../scripts/image-layout.ts";
import { imageSbom } from "../../scripts/image-sbom.ts";
import { run } from "../support/node/run.ts";

const scripts = join(import.meta.dirname, "../../scripts");
const base = mkdtempSync(join(tmpdir(), "signed-image-"));
const signed = join(base, "signed");
afterAll(() => rmSync(base, { recursive: true }));

function imageOf(content: string) {
  return packImage({
    tag: "localhost/ambient-cni:0.1.0",
    architecture: "amd64",
    layers: [
      { comment: "", entries: [{ path: "a", kind: "file", data: Buffer.from(content), mode: 0o644 }] },
    ],
    entrypoint: ["a"],
    env: [],
    labels: {},
    timeSeconds: 0,
  });
}

const image = imageOf("signed");
let folder: string;
let count = 0;

const sign = (archive: string, key: string) =>
  run(["sh", join(scripts, "sign-image.sh"), archive, key], { mayFail: true });
const verify = (options: { identity?: string; signers?: string } = {}) => {
  const { identity = "release@example.org", signers = join(base, "signers") } = options;
  const script = join(scripts, "verify-image.sh");
  return run(["sh", script, join(folder, "image.tar"), signers, identity], { mayFail: true });
};

beforeAll(async () => {
  for (const name of ["key", "other"])
    await run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", join(base, name)]);
  const line = (identity: string, key: string, namespace = "ambient-cni-image") =>
    `${identity} namespaces="${namespace}" ${readFileSync(join(base, `${key}.pub`), "utf8")}`;
  writeFileSync(
    join(base, "signers"),
    line("release@example.org", "key") + line("somebody@example.org", "other"),
  );
  writeFileSync(join(base, "for-mail"), line("release@example.org", "key", "mail"));
  await run(["mkdir", signed]);
  writeFileSync(join(signed, "image.tar"), image.archive);
  const sbom = imageSbom({ version: "0.1.0", components: [], digest: image.digest });
  writeFileSync(join(signed, "image.tar.cdx.json"), sbom);
  const { code, stdout } = await sign(join(signed, "image.tar"), join(base, "key"));
  expect([code, stdout]).toEqual([0, `ambient-cni image ${image.digest}\n`]);
});

beforeEach(() => {
  folder = join(base, `copy-${++count}`);
  cpSync(signed, folder, { recursive: true });
});

test("what was signed is verified, and told by its digest", async () => {
  const { code, stdout } = await verify();
  expect([code, stdout]).toEqual([0, `ambient-cni image ${image.digest}, signed by release@example.org\n`]);
});

describe("is refused:", () => {
  const other = imageOf("another");
  const replaceAll = (name: string, from: string, to: string) => {
    const path = join(folder, name);
    writeFileSync(path, readFileSync(path, "utf8").replaceAll(from, to));
  };
  test.each<[string, () => unknown]>([
    ["another image", () => writeFileSync(join(folder, "image.tar"), other.archive)],
    ["a longer archive", () => appendFileSync(join(folder, "image.tar"), "x")],
    ["another bill of materials", () => appendFileSync(join(folder, "image.tar.cdx.json"), " ")],
    [
      "another image, with sums that fit",
      () => {
        writeFileSync(join(folder, "image.tar"), other.archive);
        replaceAll("image.tar.sums", image.digest, other.digest);
      },
    ],
    ["one more line of sums", () => appendFileSync(join(folder, "image.tar.sums"), "# more\n")],
    ["no signature", () => rmSync(join(folder, "image.tar.sums.sig"))],
    ["no bill of materials", () => rmSync(join(folder, "image.tar.cdx.json"))],
    ["a signature of something else", () => writeFileSync(join(folder, "image.tar.sums"), "")],
  ])("%s", async (_name, change) => {
    change();
    const { code, stdout, stderr } = await verify();
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^verify-image: (?:there is no|"\S+" (?:or "\S+" )?is not)/);
  });

  test("what somebody signed who is trusted as another", async () => {
    await sign(join(folder, "image.tar"), join(base, "other"));
    expect((await verify()).code).toBe(1);
    expect((await verify({ identity: "somebody@example.org" })).code).toBe(0);
  });

  test("a key that is trusted for something else", async () => {
    expect((await verify({ signers: join(base, "for-mail") })).code).toBe(1);
  });

  test("a signature that the key made for something else", async () => {
    rmSync(join(folder, "image.tar.sums.sig"));
    const sums = join(folder, "image.tar.sums");
    await run(["ssh-keygen", "-q", "-Y", "sign", "-n", "mail", "-f", join(base, "key"), sums]);
    expect((await verify({ signers: join(base, "signers") })).code).toBe(1);
  });

  test("an archive whose index names a manifest that is not in it", async () => {
    const path = join(folder, "image.tar");
    const bytes = Buffer.from(readFileSync(path));
    const at = bytes.indexOf('"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest');
    bytes.write("3", at + '"schemaVersion":'.length);
    writeFileSync(path, bytes);
    const { code, stderr } = await verify();
    expect(code).toBe(1);
    expect(stderr).toContain("is not what its index names");
  });
});

test("nothing is signed that is no image, or has no bill of materials", async () => {
  const path = join(folder, "image.tar");
  rmSync(`${path}.sums`);
  writeFileSync(path, "x");
  expect((await sign(path, join(base, "key"))).code).not.toBe(0);
  writeFileSync(path, image.archive);
  rmSync(`${path}.cdx.json`);
  expect((await sign(path, join(base, "key"))).code).toBe(1);
  expect((await run(["ls", folder])).stdout).not.toMatch(/sums$/m);
});
