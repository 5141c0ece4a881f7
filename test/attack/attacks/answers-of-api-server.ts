// SPDX-License-Identifier: Apache-2.0
// Attacks by an API server, or by who stands in its place: answers without end, without sense, or not at all.
import { setTimeout as delay } from "node:timers/promises";
import { writeKubeconfig } from "../../support/api-server/kubeconfig.ts";
import { waitFor } from "../../support/node/wait-for.ts";
import type { ProxyMode } from "../api-proxy.ts";
import type { Attack, AttackGroup } from "../attack.ts";
import type { Scene } from "../scene.ts";

/** Where the agent's token is; who has it can act as the agent. */
const tokenFile = "/run/node/token";
const secret = "eyJhbGciOi.SECRET-OF-THE-AGENT.x";

interface Watch {
  readonly name: string;
  readonly objects: number;
  readonly failures: number;
}

async function watchOfPods(scene: Scene): Promise<Watch> {
  const { watches } = JSON.parse(await scene.stateText("/api/v1/node")) as { watches: readonly Watch[] };
  const found = watches.find(({ name }) => name === "pods");
  if (found === undefined) throw new Error("the agent does not watch pods");
  return found;
}

/** Lists of pods that fail, while the copy that the agent has stays as it was. */
function badList(
  mode: ProxyMode,
  what: string,
  {
    failures = 2,
    holdMs = 0,
    ...rest
  }: { readonly failures?: number; readonly holdMs?: number } & Pick<Attack, "allowedPeakMb"> = {},
): Attack {
  return {
    name: mode,
    what,
    ...rest,
    bound: "the copy stays as it was, and is current again 40 s after the end",
    run: async (scene, atHeight) => {
      const { proxy } = scene;
      const before = await watchOfPods(scene);
      await proxy.call.behave(mode);
      await proxy.call.expire();
      const failed = async (): Promise<void> => {
        await delay(holdMs);
        await waitFor(
          "lists to fail",
          async () => (await watchOfPods(scene)).failures >= before.failures + failures,
          {
            timeoutMs: 40_000,
            intervalMs: 100,
          },
        );
      };
      try {
        await Promise.all([failed(), atHeight()]);
      } finally {
        await proxy.call.behave("faithful");
      }
      const kept = (await watchOfPods(scene)).objects;
      const endMs = performance.now();
      // a list under way may go on for as long as its budget says
      await proxy.call.cutLists();
      await scene.settled();
      const tookS = ((performance.now() - endMs) / 1000).toFixed(1);
      const after = (await watchOfPods(scene)).objects;
      return {
        measured: `${kept - before.objects} changes, current after ${tookS} s`,
        // pods that come and go while lists fail are not in it
        ok: kept === before.objects && after >= before.objects,
      };
    },
  };
}

/** Answers to everything, for so long; a server in trouble must not be hammered. */
function badServer(
  mode: ProxyMode,
  what: string,
  { holdMs, mostRequests }: { holdMs: number; mostRequests: number },
): Attack {
  return {
    name: mode,
    what,
    bound: `at most ${mostRequests} requests in ${holdMs / 1000} s; current again afterwards; no credentials to others`,
    stopsAdds: true,
    run: async (scene, atHeight) => {
      const { proxy } = scene;
      await proxy.call.tally();
      await proxy.call.behave(mode);
      await proxy.call.cutWatches();
      try {
        await atHeight();
        await delay(holdMs);
      } finally {
        await proxy.call.behave("faithful");
      }
      const { requests, stolen } = await proxy.call.tally();
      await proxy.call.cutLists();
      await scene.settled();
      const leaked = stolen.filter((line) => line.includes(secret)).length;
      const logged = scene.agent.text.includes("SECRET-OF-THE-AGENT");
      return {
        measured: `${requests} requests, ${leaked} with credentials to others${logged ? ", THE TOKEN IS IN THE LOG" : ""}`,
        ok: requests <= mostRequests && leaked === 0 && !logged,
      };
    },
  };
}

/** Watches that are worth nothing. */
function badWatch(
  mode: ProxyMode,
  what: string,
  { mostRequests, ...rest }: { readonly mostRequests: number } & Pick<Attack, "allowedPeakMb">,
): Attack {
  return {
    name: mode,
    what,
    ...rest,
    bound: `at most ${mostRequests} requests in 4 s; current again afterwards`,
    run: async (scene, atHeight) => {
      const { proxy } = scene;
      await proxy.call.tally();
      await proxy.call.behave(mode);
      await proxy.call.expire();
      try {
        await Promise.all([delay(4_000), atHeight()]);
      } finally {
        await proxy.call.behave("faithful");
      }
      const { requests } = await proxy.call.tally();
      await scene.settled();
      return { measured: `${requests} requests`, ok: requests <= mostRequests };
    },
  };
}

export const answersOfApiServer: AttackGroup = {
  name: "answers-of-api-server",
  prepare: async (scene) => {
    await scene.writeSecret(tokenFile, secret);
    writeKubeconfig(scene.kubeconfig, scene.proxyUrl, { tokenFile });
  },
  attacks: [
    badList("endless-pages", "lists of pods whose pages never end"),
    badList("empty-pages", "lists of pods with empty pages without end"),
    badList("200-mb", "lists of pods of 200 MB, of other nodes"),
    // one object may have 10 MiB, and what it arrived in is collected later
    badList("one-huge-object", "lists with one object of 200 MB", { allowedPeakMb: 60 }),
    badList("foreign", "lists of 50,000 pods of other nodes"),
    badList("deep-nesting", "lists of two million brackets"),
    badList("gzip-bomb", "100 kB that become 100 MB"),
    badList("drip", "a list byte by byte", { failures: 1, holdMs: 4_000 }),
    // one line may have 10 MiB, and what it arrived in is collected later
    badWatch("endless-line", "a watch whose first line never ends", { mostRequests: 60, allowedPeakMb: 60 }),
    badWatch("garbage-lines", "watches of lines that are no events", { mostRequests: 60 }),
    badWatch("always-gone", "watches that end at once, with 410", { mostRequests: 60 }),
    badServer("errors", "500 with 100 kB of text to everything", { holdMs: 3_000, mostRequests: 80 }),
    badServer("unauthorized", "401 to everything", { holdMs: 3_000, mostRequests: 80 }),
    badServer("redirects", "everything is sent on to a thief", { holdMs: 3_000, mostRequests: 80 }),
    badServer("hangs", "nothing is answered", { holdMs: 3_000, mostRequests: 80 }),
    {
      name: "token-is-a-fifo",
      what: "the token's file becomes a FIFO that nobody writes, for 12 s",
      bound: "the agent works with what it has, and reads the new token",
      stopsAdds: true,
      run: async (scene, atHeight) => {
        const slowest: number[] = [];
        await scene.replaceByFifo(tokenFile);
        try {
          await atHeight();
          for (let round = 0; round < 24; round++) {
            slowest.push(await scene.askMs(8000, "/healthz"));
            await delay(500);
          }
        } finally {
          await scene.writeSecret(tokenFile, secret);
        }
        await scene.settled();
        const ms = Math.round(Math.max(...slowest));
        return { measured: `healthz within ${ms} ms`, ok: ms < 1_000 };
      },
    },
  ],
};
