// SPDX-License-Identifier: Apache-2.0
// Keys and certificates of a cluster that lives for minutes: one authority, one certificate for each component.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../support/node/run.ts";

interface CertificateRequest {
  /** Name of the files, without extension. */
  readonly name: string;
  readonly subject: string;
  readonly use: "serverAuth" | "clientAuth";
  readonly altNames?: string;
}

/** Components with a certificate by which the API server knows them. */
export const clients = {
  admin: "/O=system:masters/CN=admin",
  "controller-manager": "/CN=system:kube-controller-manager",
  scheduler: "/CN=system:kube-scheduler",
  "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
} as const;

/**
 * Fills a folder: `ca`, `apiserver`, `kubelet-server` (for the node's address), `kubelet` and those of {@link clients}, each as
 * NAME.key and NAME.crt; `sa.key` and `sa.pub` for service account tokens.
 *
 * Source: https://kubernetes.io/docs/setup/best-practices/certificates/
 */
export async function makeCertificates(
  folder: string,
  node: { readonly name: string; readonly address: string },
): Promise<void> {
  await mkdir(folder, { recursive: true });
  // the machine's own configuration would add extensions that make authorities of all of them
  await writeFile(join(folder, "openssl.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n");
  const authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,digitalSignature"];
  await openssl(folder, "ca", ["-subj", "/CN=test-cluster", ...extensions(authority)]);
  const names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
  const addresses = ["127.0.0.1", "10.96.0.1", node.address];
  const altNames = [...names.map((name) => `DNS:${name}`), ...addresses.map((ip) => `IP:${ip}`)].join(",");
  await Promise.all([
    makeCertificate(folder, {
      name: "apiserver",
      subject: "/CN=kube-apiserver",
      use: "serverAuth",
      altNames,
    }),
    makeCertificate(folder, {
      name: "kubelet-server",
      subject: `/CN=${node.name}`,
      use: "serverAuth",
      altNames: `DNS:${node.name},IP:${node.address}`,
    }),
    makeCertificate(folder, {
      name: "kubelet",
      subject: `/O=system:nodes/CN=system:node:${node.name}`,
      use: "clientAuth",
    }),
    ...Object.entries(clients).map(([name, subject]) =>
      makeCertificate(folder, { name, subject, use: "clientAuth" }),
    ),
    makeTokenKeys(folder),
  ]);
}

/** The text of a kubeconfig for the holder of one of the certificates, or of a token. */
export async function kubeconfigFor(
  folder: string,
  options: {
    readonly url: string;
    readonly user: { readonly client: string } | { readonly tokenFile: string };
  },
): Promise<string> {
  const base64 = async (file: string) => (await readFile(join(folder, file))).toString("base64");
  const { url, user } = options;
  const credentials =
    "client" in user
      ? {
          "client-certificate-data": await base64(`${user.client}.crt`),
          "client-key-data": await base64(`${user.client}.key`),
        }
      : { tokenFile: user.tokenFile };
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [
      { name: "test", cluster: { server: url, "certificate-authority-data": await base64("ca.crt") } },
    ],
    users: [{ name: "test", user: credentials }],
    contexts: [{ name: "test", context: { cluster: "test", user: "test" } }],
    "current-context": "test",
  });
}

async function makeCertificate(folder: string, request: CertificateRequest): Promise<void> {
  const wanted = [
    "basicConstraints=CA:FALSE",
    "keyUsage=digitalSignature",
    `extendedKeyUsage=${request.use}`,
    ...(request.altNames === undefined ? [] : [`subjectAltName=${request.altNames}`]),
  ];
  const signer = ["-CA", join(folder, "ca.crt"), "-CAkey", join(folder, "ca.key")];
  await openssl(folder, request.name, ["-subj", request.subject, ...signer, ...extensions(wanted)]);
}

async function openssl(folder: string, name: string, args: readonly string[]): Promise<void> {
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  const files = ["-keyout", join(folder, `${name}.key`), "-out", join(folder, `${name}.crt`)];
  const config = ["-config", join(folder, "openssl.cnf")];
  await run(["openssl", "req", "-x509", "-new", "-days", "2", ...config, ...key, ...args, ...files]);
}

function extensions(values: readonly string[]): string[] {
  return values.flatMap((value) => ["-addext", value]);
}

async function makeTokenKeys(folder: string): Promise<void> {
  const key = join(folder, "sa.key");
  await run(["openssl", "genrsa", "-out", key, "2048"]);
  await run(["openssl", "rsa", "-in", key, "-pubout", "-out", join(folder, "sa.pub")]);
}
