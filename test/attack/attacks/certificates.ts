// SPDX-License-Identifier: Apache-2.0
// Attacks on the way to the API server: a stranger with a certificate of its own, and one that changes while the agent runs.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { run } from "../../support/node/run.ts";
import type { AttackGroup } from "../attack.ts";
import type { Scene } from "../scene.ts";

const folder = "/run/node/tls";
const caFile = join(folder, "ca.pem");
const secret = "eyJhbGciOi.SECRET-OVER-TLS.x";

/** An authority and a server's certificate by it. */
async function issue(name: string): Promise<void> {
  const openssl = (...args: string[]): Promise<unknown> => run(["openssl", ...args]);
  const at = (file: string): string => join(folder, file);
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const ca = ["-keyout", at(`${name}-ca.key`), "-out", at(`${name}-ca.pem`)];
  await openssl("req", "-x509", ...ec, "-days", "2", "-subj", `/CN=${name}`, ...ca);
  const request = ["-keyout", at(`${name}.key`), "-out", at(`${name}.csr`)];
  await openssl("req", ...ec, "-subj", "/CN=api", ...request);
  await writeFile(at(`${name}.ext`), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n");
  const signer = ["-CA", at(`${name}-ca.pem`), "-CAkey", at(`${name}-ca.key`), "-CAcreateserial"];
  const out = ["-days", "2", "-extfile", at(`${name}.ext`), "-out", at(`${name}.pem`)];
  await openssl("x509", "-req", "-in", at(`${name}.csr`), ...signer, ...out);
}

async function pair(name: string): Promise<{ key: string; cert: string }> {
  const [key, cert] = await Promise.all(
    [`${name}.key`, `${name}.pem`].map((file) => readFile(join(folder, file), "utf8")),
  );
  return { key: key ?? "", cert: cert ?? "" };
}

async function trust(name: string, scene: Scene): Promise<void> {
  await scene.writeSecret(caFile, await readFile(join(folder, `${name}-ca.pem`), "utf8"));
}

export const certificateAttacks: AttackGroup = {
  name: "certificates",
  prepare: async (scene) => {
    await mkdir(folder, { recursive: true });
    for (const name of ["first", "second", "stranger"]) await issue(name);
    await trust("first", scene);
    const server = await scene.proxy.call.start({ upstream: scene.mesh.api.url, tls: await pair("first") });
    await scene.writeSecret(
      scene.kubeconfig,
      JSON.stringify({
        "current-context": "c",
        contexts: [{ name: "c", context: { cluster: "c", user: "u" } }],
        clusters: [{ name: "c", cluster: { server, "certificate-authority": caFile } }],
        users: [{ name: "u", user: { token: secret } }],
      }),
    );
  },
  attacks: [
    {
      name: "strange-certificate",
      what: "somebody else's certificate stands in place of the API server's for 5 s",
      bound: "it gets no request; current again afterwards",
      stopsAdds: true,
      run: async (scene, atHeight) => {
        const { proxy } = scene;
        await proxy.call.useCertificate(await pair("stranger"));
        await proxy.call.tally();
        await atHeight();
        await delay(5_000);
        const { requests } = await proxy.call.tally();
        await proxy.call.useCertificate(await pair("first"));
        await scene.settled();
        return { measured: `${requests} requests`, ok: requests === 0 };
      },
    },
    {
      name: "certificate-changes",
      what: "the API server gets a certificate of another authority, the file of authorities follows 3 s later",
      bound: "current again within 40 s, without a restart",
      stopsAdds: true,
      run: async (scene, atHeight) => {
        const { proxy } = scene;
        await proxy.call.useCertificate(await pair("second"));
        await atHeight();
        await delay(3_000);
        await trust("second", scene);
        const startMs = performance.now();
        await scene.settled();
        const seconds = (performance.now() - startMs) / 1000;
        return { measured: `after ${seconds.toFixed(1)} s`, ok: seconds < 40 };
      },
    },
  ],
  finish: (scene) => scene.faithfulKubeconfig(),
};
