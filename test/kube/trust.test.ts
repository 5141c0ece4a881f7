// SPDX-License-Identifier: Apache-2.0
// CA files that client-go takes, against a server that proves itself with each kind of certificate.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ApiClient } from "../../src/kube/api-client.ts";
import { trustBundles } from "../../src/kube/trust.ts";

let folder = "";
const file = (name: string): string => join(folder, name);
const read = (name: string): string => readFileSync(file(name), "utf8");
const openssl = (...args: string[]): void => {
  execFileSync("openssl", args, { stdio: "ignore", cwd: folder });
};
const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
/** Without key identifiers nothing but the signature tells two authorities of one name apart. */
const bare = "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n";
const leaf = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n";
const bareLeaf = `${leaf}subjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n`;

interface Wanted {
  readonly subject: string;
  /** Default: itself. */
  readonly issuer?: string;
  readonly extensions: string;
  readonly days?: string;
}

function make(name: string, { subject, issuer, extensions, days = "2" }: Wanted): void {
  writeFileSync(file(`${name}.ext`), extensions);
  openssl("req", ...ec, "-subj", `/CN=${subject}`, "-keyout", `${name}.key`, "-out", `${name}.csr`);
  const signer =
    issuer === undefined
      ? ["-signkey", `${name}.key`]
      : ["-CA", `${issuer}.crt`, "-CAkey", `${issuer}.key`, "-CAcreateserial"];
  const out = ["-days", days, "-extfile", `${name}.ext`, "-out", `${name}.crt`];
  openssl("x509", "-req", "-in", `${name}.csr`, ...signer, ...out);
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ambient-trust-"));
  const authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
  make("root", { subject: "company-root", extensions: authority });
  make("intermediate", { subject: "cluster-ca", issuer: "root", extensions: authority });
  make("server", { subject: "api", issuer: "intermediate", extensions: leaf });
  make("old", { subject: "kubernetes", extensions: bare });
  make("new", { subject: "kubernetes", extensions: bare });
  make("by-old", { subject: "api", issuer: "old", extensions: bareLeaf });
  make("by-new", { subject: "api", issuer: "new", extensions: bareLeaf });
  make("self", { subject: "api", extensions: leaf });
  make("stranger", { subject: "stranger", extensions: authority });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** An API server that has one namespace, with a certificate that can be changed. */
async function withServer<T>(name: string, use: (server: Server, url: string) => Promise<T>): Promise<T> {
  const answer = JSON.stringify({ metadata: { name: "shop" } });
  const server = createServer({ key: read(`${name}.key`), cert: read(`${name}.crt`) }, (_, response) =>
    response.end(answer),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await use(server, `https://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

function clientOf(server: string, caFile: string): ApiClient {
  const kubeconfig = {
    "current-context": "c",
    contexts: [{ name: "c", context: { cluster: "c", user: "u" } }],
    clusters: [{ name: "c", cluster: { server, "certificate-authority": caFile } }],
    users: [{ name: "u", user: { token: "t" } }],
  };
  writeFileSync(file("kubeconfig"), JSON.stringify(kubeconfig));
  return ApiClient.load({ kubeconfigPath: file("kubeconfig") });
}

async function ask(client: ApiClient): Promise<string> {
  return await client.getNamespace("shop").then(
    () => "answered",
    (error: Error) => error.message,
  );
}

async function askOnce(serverName: string, ca: string): Promise<string> {
  writeFileSync(file("ca.crt"), ca);
  return await withServer(serverName, async (_, url) => {
    const client = clientOf(url, file("ca.crt"));
    try {
      return await ask(client);
    } finally {
      client.close();
    }
  });
}

const broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

describe("a server is trusted as by client-go with a CA file of", () => {
  test.each<[string, string, readonly string[]]>([
    ["root and intermediate", "server", ["root", "intermediate"]],
    ["an intermediate alone", "server", ["intermediate"]],
    ["the server's own certificate", "server", ["server"]],
    ["a server's own self-signed certificate", "self", ["self"]],
    ["two of one name, the right one first", "by-old", ["old", "new"]],
    ["two of one name, the right one last", "by-new", ["old", "new"]],
    ["two of one name and others between", "by-new", ["old", "stranger", "root", "new"]],
    ["one twice", "by-new", ["new", "new"]],
  ])("%s", async (_name, server, names) => {
    expect(await askOnce(server, names.map((name) => read(`${name}.crt`)).join(""))).toBe("answered");
  });

  test("garbage, keys and broken certificates beside the right one", async () => {
    const ca = `hello\n${read("root.key")}${broken}${read("intermediate.crt")}bye\n`;
    expect(await askOnce("server", ca)).toBe("answered");
  });
});

test.each<[string, string, readonly string[]]>([
  ["a stranger's", "server", ["stranger"]],
  ["one of the right name with another key", "by-new", ["old"]],
  ["a sibling of the server's", "by-old", ["by-new"]],
])("a server is refused, with the remedy, with a CA file of %s", async (_name, server, names) => {
  const said = await askOnce(server, names.map((name) => read(`${name}.crt`)).join(""));
  expect(said).toMatch(/check the CA certificate and the server name this node uses/);
});

test("a server that changes to the new authority, and back, is trusted with both in the file", async () => {
  writeFileSync(file("ca.crt"), read("old.crt") + read("new.crt"));
  await withServer("by-old", async (server, url) => {
    const client = clientOf(url, file("ca.crt"));
    for (const name of ["by-old", "by-new", "by-old", "by-new"]) {
      server.setSecureContext({ key: read(`${name}.key`), cert: read(`${name}.crt`) });
      server.closeAllConnections();
      expect(await ask(client)).toBe("answered");
    }
    client.close();
  });
});

test("a bundle that is rotated on disk is taken at once, not only when the old one has been used for a while", async () => {
  writeFileSync(file("ca.crt"), read("old.crt"));
  await withServer("by-old", async (server, url) => {
    const client = clientOf(url, file("ca.crt"));
    expect(await ask(client)).toBe("answered");
    server.setSecureContext({ key: read("by-new.key"), cert: read("by-new.crt") });
    server.closeAllConnections();
    expect(await ask(client)).toMatch(/check the CA certificate/);
    writeFileSync(file("ca.crt"), read("new.crt"));
    expect(await ask(client)).toBe("answered");
    client.close();
  });
});

test("a bundle holds one certificate of each name, and each certificate is in one", () => {
  const [old, next, root] = [read("old.crt").trim(), read("new.crt").trim(), read("root.crt").trim()];
  expect(trustBundles([root, old, next, old].join("\n"))).toEqual([`${root}\n${old}`, `${root}\n${next}`]);
  expect(trustBundles(root)).toEqual([root]);
  expect(trustBundles("")).toEqual([]);
  expect(trustBundles(broken)).toEqual([]);
});
