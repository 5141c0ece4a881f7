// SPDX-License-Identifier: Apache-2.0
// Opens the dashboard's live stream as a page does and reads its first event: everything the page is going to show.
import type { WholeEvent } from "../../src/dashboard/feed-events.ts";

/**
 * @param url the page's, with its key.
 * @throws Error when the stream is refused, begins otherwise, or says nothing for 5 s.
 */
export async function firstEvent(url: string | URL): Promise<WholeEvent> {
  const ending = new AbortController();
  const signal = AbortSignal.any([ending.signal, AbortSignal.timeout(5000)]);
  const response = await fetch(new URL(`/events${new URL(url).search}`, url), {
    signal,
    headers: { Accept: "text/event-stream" },
  });
  if (response.status !== 200 || response.body === null)
    throw new Error(`Cannot read the live stream: ${response.status} ${await response.text()}`);
  let text = "";
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    const [, name, data] = /^event: (\w+)\ndata: (.*)\n\n/m.exec(text) ?? [];
    if (name === undefined || data === undefined) continue;
    ending.abort();
    if (name !== "whole") throw new Error(`the live stream begins with "${name}"`);
    return JSON.parse(data) as WholeEvent;
  }
  throw new Error("the live stream ended before its first event");
}
