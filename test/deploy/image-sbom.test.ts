// SPDX-License-Identifier: Apache-2.0
// The bill of materials: names of packages as scanners read them, and the same bytes for the same parts.
import { describe, expect, test } from "vitest";
import { bundledComponents, debianComponent, debianComponents, imageSbom } from "../../scripts/image-sbom.ts";
import type { TarEntry } from "../../scripts/image-tar.ts";

const debian = 'PRETTY_NAME="Debian"\nVERSION_ID="12"\nID=debian\n';
const status =
  "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u14\n";
const packages = [
  { name: "@scope/one", version: "1.2.3", license: "MIT", path: "node_modules/@scope/one" },
  { name: "two", version: "0.1.0", license: "", path: "node_modules/one/node_modules/two" },
];
const integrity = `sha512-${Buffer.alloc(64, 7).toString("base64")}`;
const lock = { "node_modules/@scope/one": { integrity }, "node_modules/one/node_modules/two": { integrity } };

describe("a package is named", () => {
  test.each([
    [debian, "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12"],
    [
      'ID=ubuntu\nVERSION_ID="24.04"\n',
      "pkg:deb/ubuntu/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=ubuntu-24.04",
    ],
  ])("by the system it is of", (release, purl) => {
    expect(debianComponent(status, release).purl).toBe(purl);
  });

  test("by its scope, and with the digest of the lock file", () => {
    expect(bundledComponents(packages, lock).map(({ purl }) => purl)).toEqual([
      "pkg:npm/%40scope/one@1.2.3",
      "pkg:npm/two@0.1.0",
    ]);
  });
});

test.each(["", "Package: a\n", "Version: 1\n"])(
  "a description without name or version (%j) ends the build",
  (text) => {
    const path = "var/lib/dpkg/status.d/a";
    const entries: TarEntry[] = [{ path, kind: "file", data: Buffer.from(text), mode: 0o644 }];
    expect(() => debianComponents(entries)).toThrow("no name or no version");
  },
);

test("a package that the lock file does not have ends the build", () => {
  expect(() => bundledComponents(packages, {})).toThrow('"node_modules/@scope/one" is from');
});

test("the document depends on its parts alone, and on each of them", () => {
  const components = bundledComponents(packages, lock);
  const one = imageSbom({ version: "1.0.0", components });
  expect(imageSbom({ version: "1.0.0", components: components.toReversed() })).toBe(one);
  const serial = (text: string): string => JSON.parse(text).serialNumber;
  expect(serial(one)).toMatch(
    /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  const others = [
    imageSbom({ version: "1.0.1", components }),
    imageSbom({ version: "1.0.0", components: components.slice(1) }),
    imageSbom({ version: "1.0.0", components, digest: "sha256:00" }),
  ];
  expect(new Set([one, ...others].map(serial)).size).toBe(4);
});

test("digests are told as hexadecimal digits", () => {
  const { components } = JSON.parse(
    imageSbom({ version: "1.0.0", components: bundledComponents(packages, lock) }),
  );
  expect(components[0].hashes).toEqual([{ alg: "SHA-512", content: "07".repeat(64) }]);
  expect(components[1].licenses).toBeUndefined();
});
