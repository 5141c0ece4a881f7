// SPDX-License-Identifier: Apache-2.0
// A process that looks like the kubelet and connects to pods; forked by probes.inside.ts.
import { get } from "../support/node/pod-app.ts";

process.title = "kubelet";

export async function probe(host: string, port: number): Promise<string> {
  const { peer } = await get({ host, port });
  return peer.address;
}
