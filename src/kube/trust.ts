// SPDX-License-Identifier: Apache-2.0
// Which certificates are trusted, as Go reads a CA file, for OpenSSL, which reads it in another way.
import { X509Certificate } from "node:crypto";

/** Taken with every bundle: a certificate in the file is trusted whoever signed it, as in Go. Source: openssl X509_V_FLAG_PARTIAL_CHAIN. */
export const trustOptions = { allowPartialTrustChain: true } as const;

/**
 * Splits a CA file (PEM) into bundles that OpenSSL reads as Go reads the whole: in none of them two certificates share a
 * subject, for OpenSSL follows only one of a name; every certificate is in at least one. Blocks that are no certificate, or
 * cannot be read, are left out. A file without two certificates of one name makes one bundle, an empty one makes none.
 * Source: Go crypto/x509 CertPool.AppendCertsFromPEM, Certificate.buildChains; openssl X509_STORE_CTX_get1_issuer.
 */
export function trustBundles(pem: string): string[] {
  const bySubject = new Map<string, Set<string>>();
  for (const [block] of pem.matchAll(certificateBlock)) {
    const subject = subjectOf(block);
    if (subject === undefined) continue;
    const same = bySubject.get(subject) ?? new Set();
    bySubject.set(subject, same.add(block));
  }
  const names = [...bySubject.values()].map((same) => [...same]);
  const count = Math.max(0, ...names.map(({ length }) => length));
  return Array.from({ length: count }, (_, at) =>
    names.map((same) => same[Math.min(at, same.length - 1)]).join("\n"),
  );
}

const certificateBlock = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

function subjectOf(block: string): string | undefined {
  try {
    // OpenSSL compares names without regard to case
    return (new X509Certificate(block).subject ?? "").toLowerCase();
  } catch {
    return undefined;
  }
}

/** Codes of Node for a server's certificate that was not accepted; not for one of another name, which no other bundle would help. */
const distrustCode =
  /^(CERT_(?!REVOKED)|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_SELF_SIGNED|INVALID_(CA|PURPOSE)$)/;

/** Whether an exchange failed because none of the certificates of its bundle vouches for the server. */
export function isDistrust(error: unknown): boolean {
  const { code } = error as { readonly code?: unknown };
  return typeof code === "string" && distrustCode.test(code);
}
