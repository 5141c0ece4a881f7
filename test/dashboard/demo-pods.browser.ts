// SPDX-License-Identifier: Apache-2.0
// The picture in the README: the dashboard with the pods of `npm run demo -- --keep`.
import { join } from "node:path";
import { expect, test } from "vitest";
import { NodeModule } from "../support/node/node-module.ts";
import { noBrowser, SCREENSHOTS } from "./visitor.ts";

if (noBrowser !== undefined) console.warn(noBrowser);

test.skipIf(noBrowser !== undefined)(
  "the demo's pods are on the page as they are in the kernel",
  async () => {
    const path = join(import.meta.dirname, "demo-pods.inside.ts");
    await using node = await NodeModule.start<typeof import("./demo-pods.inside.ts")>(path);
    expect(await node.call.show()).toEqual(["client", "server"]);
    // to be copied to docs/dashboard.webp when the page looks different
    expect(await node.call.takePicture(join(SCREENSHOTS, "demo.webp"))).toBeLessThan(150_000);
    expect(await node.call.complaints()).toEqual([]);
  },
);
