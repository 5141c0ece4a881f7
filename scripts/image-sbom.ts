// SPDX-License-Identifier: Apache-2.0
// What the image is made of, as a CycloneDX document whose bytes depend on nothing but that.
// Source: CycloneDX 1.6, bom-1.6.schema.json; package-url, PURL-TYPES: deb, npm, oci.
import { createHash } from "node:crypto";
import type { TarEntry } from "./image-tar.ts";

/** A package that the bundle holds code of, as bundle.ts writes it down. */
export interface BundledPackage {
  readonly name: string;
  readonly version: string;
  /** SPDX expression as the package has it; "" when it says nothing. */
  readonly license: string;
  /** Key of the lock file. */
  readonly path: string;
}

/** A part of the image. */
export interface SbomComponent {
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly cpe?: string;
  /** SPDX expression; "" when it is not known. */
  readonly license: string;
  /** As in a lock file of npm: `sha512-…`; "" when there is none. */
  readonly integrity: string;
}

/** What is told of an image. */
export interface SbomOptions {
  readonly version: string;
  readonly components: readonly SbomComponent[];
  /** Of its manifest; absent in the document that the image itself holds. */
  readonly digest?: string;
}

const algorithms: Readonly<Record<string, string>> = {
  sha256: "SHA-256",
  sha384: "SHA-384",
  sha512: "SHA-512",
};

/** The document as JSON. Pure; the order of the components does not matter. */
export function imageSbom({ version, components, digest }: SbomOptions): string {
  const purl = `pkg:oci/ambient-cni@${encodeURIComponent(digest ?? version)}`;
  const sorted = [...components].sort((a, b) => (a.purl < b.purl ? -1 : 1));
  const content = {
    metadata: {
      component: {
        "bom-ref": purl,
        type: "container",
        name: "ambient-cni",
        version,
        purl,
        licenses: [{ license: { id: "Apache-2.0" } }],
      },
    },
    components: sorted.map(componentOf),
    dependencies: [{ ref: purl, dependsOn: sorted.map((each) => each.purl) }],
  };
  const document = {
    $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    serialNumber: `urn:uuid:${uuidOf(JSON.stringify(content))}`,
    version: 1,
    ...content,
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

function componentOf({ name, version, purl, cpe, license, integrity }: SbomComponent): object {
  const [algorithm = "", digest = ""] = integrity.split("-");
  const alg = algorithms[algorithm];
  return {
    "bom-ref": purl,
    type: "library",
    name,
    version,
    purl,
    ...(cpe === undefined ? {} : { cpe }),
    ...(license === "" ? {} : { licenses: [{ expression: license }] }),
    ...(alg === undefined
      ? {}
      : { hashes: [{ alg, content: Buffer.from(digest, "base64").toString("hex") }] }),
  };
}

/** Of the same content the same. Source: RFC 9562, version 8. */
function uuidOf(content: string): string {
  const bytes = createHash("sha256").update(content).digest().subarray(0, 16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x80, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Debian packages that files of the image are from, by the descriptions that it holds. */
export function debianComponents(entries: readonly TarEntry[]): SbomComponent[] {
  const release = textAt(entries, "usr/lib/os-release");
  return entries.flatMap((entry) =>
    entry.kind === "file" && entry.path.startsWith("var/lib/dpkg/status.d/")
      ? [debianComponent(Buffer.from(entry.data).toString(), release)]
      : [],
  );
}

/**
 * A package of Debian's, or of a system made from it.
 * @param status what `dpkg-query -s` says of it @param release text of os-release
 * @throws Error when it names no package or no version
 */
export function debianComponent(status: string, release: string): SbomComponent {
  const field = (name: string): string => new RegExp(`^${name}: (.*)$`, "m").exec(status)?.[1] ?? "";
  const setting = (name: string): string =>
    new RegExp(`^${name}="?([^"\n]*)"?$`, "m").exec(release)?.[1] ?? "";
  const [name, version, architecture] = [field("Package"), field("Version"), field("Architecture")];
  if (name === "" || version === "")
    throw new Error(`Cannot tell what a package is: no name or no version in "${status.slice(0, 80)}"`);
  const system = setting("ID") || "debian";
  const qualifiers = `arch=${architecture}&distro=${system}-${setting("VERSION_ID")}`;
  const purl = `pkg:deb/${system}/${name}@${encodeURIComponent(version)}?${qualifiers}`;
  return { name, version, purl, license: "", integrity: "" };
}

function textAt(entries: readonly TarEntry[], path: string): string {
  const entry = entries.find((each) => each.path === path);
  return entry?.kind === "file" ? Buffer.from(entry.data).toString() : "";
}

/** @param lock packages of the lock file, by path @throws Error for one that the lock file does not prove */
export function bundledComponents(
  packages: readonly BundledPackage[],
  lock: Readonly<Record<string, { readonly integrity?: string }>>,
): SbomComponent[] {
  return packages.map(({ name, version, license, path }) => {
    const integrity = lock[path]?.integrity;
    if (integrity === undefined)
      throw new Error(`Cannot tell where "${path}" is from: it is not in package-lock.json`);
    const purl = `pkg:npm/${name.replace(/^@/, "%40")}@${version}`;
    return { name, version, purl, license, integrity };
  });
}
