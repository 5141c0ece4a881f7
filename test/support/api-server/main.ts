// SPDX-License-Identifier: Apache-2.0
// The stub API server as a process: node test/support/api-server/main.ts [--port N] [--kubeconfig FILE] [--token T].
import { parseArgs } from "node:util";
import { ApiServer } from "../api-server.ts";
import { writeKubeconfig } from "./kubeconfig.ts";

const { values } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "0" },
    kubeconfig: { type: "string" },
    token: { type: "string" },
  },
});

const server = await ApiServer.start({
  host: values.host,
  port: Number(values.port),
  ...(values.token === undefined ? {} : { tokens: [values.token] }),
});
if (values.kubeconfig !== undefined) {
  writeKubeconfig(values.kubeconfig, server.url, values.token === undefined ? {} : { token: values.token });
}
process.stdout.write(`${JSON.stringify({ url: server.url, kubeconfig: values.kubeconfig })}\n`);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    void server.stop().finally(() => process.exit(0));
  });
}
