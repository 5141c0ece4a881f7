// SPDX-License-Identifier: Apache-2.0
// The client as it runs in a pod: service account folder, TLS with the cluster's CA, a token that is rotated.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ApiClient } from "../../src/kube/api-client.ts";
import { writeKubeconfig } from "../support/api-server/kubeconfig.ts";
import { ApiServer } from "../support/api-server.ts";

const missing = whatIsMissing();
if (missing !== undefined) process.stderr.write(`SKIP test/kube/in-cluster: ${missing}\n`);

function whatIsMissing(): string | undefined {
  if (process.getuid?.() !== 0) return "needs root for its own mount namespace";
  try {
    execFileSync("openssl", ["version"], { stdio: "ignore" });
    execFileSync("unshare", ["-m", "true"], { stdio: "ignore" });
    return undefined;
  } catch (error) {
    return `needs openssl and unshare (${(error as Error).message})`;
  }
}

let folder = "";
let server: ApiServer;

function makeCertificate(name: string): { key: string; cert: string } {
  const key = join(folder, `${name}.key`);
  const cert = join(folder, `${name}.crt`);
  const subject = ["-subj", `/CN=${name}`, "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"];
  const type = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
  execFileSync("openssl", ["req", "-x509", "-nodes", ...type, ...subject, "-keyout", key, "-out", cert], {
    stdio: "ignore",
  });
  return { key: readFileSync(key, "utf8"), cert: readFileSync(cert, "utf8") };
}

beforeAll(async () => {
  if (missing !== undefined) return;
  folder = mkdtempSync(join(tmpdir(), "ambient-in-cluster-"));
  server = await ApiServer.start({ tls: makeCertificate("server"), tokens: ["first"] });
  makeCertificate("other");
  server.put("namespaces", { metadata: { name: "shop" } });
});

afterAll(async () => {
  if (missing !== undefined) return;
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Starts a process that sees `folder/account` as its service account and gets the namespace once for each input line. */
function startPod(): ChildProcess & {
  readonly stdout: NodeJS.ReadableStream;
  readonly stdin: NodeJS.WritableStream;
} {
  const account = "/run/secrets/kubernetes.io/serviceaccount";
  const script = `
    import { createInterface } from "node:readline";
    import { ApiClient } from ${JSON.stringify(new URL("../../src/kube/api-client.ts", import.meta.url).href)};
    const client = ApiClient.load();
    for await (const line of createInterface({ input: process.stdin })) {
      const answer = await client.getNamespace(line).then((raw) => raw.metadata.name, (error) => error.message);
      process.stdout.write(answer + "\\n");
    }
    client.close();
  `;
  const view = `mount -t tmpfs tmpfs /run && mkdir -p ${account} && mount --bind "$0" ${account} && exec "$@"`;
  const { port } = new URL(server.url);
  return spawn(
    "unshare",
    ["-m", "sh", "-c", view, join(folder, "account"), process.execPath, "--input-type=module", "-e", script],
    {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: port },
    },
  );
}

test.skipIf(missing !== undefined)(
  "a pod's service account is used and its new token taken at once",
  async () => {
    const account = join(folder, "account");
    mkdirSync(account, { recursive: true });
    writeFileSync(join(account, "token"), "first");
    writeFileSync(join(account, "namespace"), "istio-system");
    writeFileSync(join(account, "ca.crt"), readFileSync(join(folder, "server.crt")));
    const child = startPod();
    try {
      const answers = createInterface({ input: child.stdout });
      const ask = async () => {
        child.stdin.write("shop\n");
        const [answer] = (await once(answers, "line")) as [string];
        return answer;
      };
      expect(await ask()).toBe("shop");
      server.tokens = ["second"];
      writeFileSync(join(account, "token"), "second");
      expect(await ask()).toBe("shop");
      expect(server.requests.map(({ authorization, status }) => `${authorization} ${status}`)).toEqual([
        "Bearer first 200",
        "Bearer first 401",
        "Bearer second 200",
      ]);
      // One connection for all: TLS material that did not change makes no new pool.
      expect(new Set(server.requests.map(({ connection }) => connection)).size).toBe(1);
    } finally {
      child.kill("SIGKILL");
    }
  },
);

test.skipIf(missing !== undefined)(
  "a server with a certificate of another CA is refused with the remedy",
  async () => {
    const path = writeKubeconfig(join(folder, "kubeconfig"), server.url, { token: "second" });
    const authority = readFileSync(join(folder, "other.crt")).toString("base64");
    const text = readFileSync(path, "utf8").replace(
      '"insecure-skip-tls-verify": true',
      `"certificate-authority-data": "${authority}"`,
    );
    writeFileSync(path, text);
    const client = ApiClient.load({ kubeconfigPath: path });
    await expect(client.getNamespace("shop")).rejects.toMatchObject({
      reason: "Unreachable",
      message: expect.stringContaining("check the CA certificate"),
    });
    client.close();
  },
);
