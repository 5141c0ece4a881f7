// SPDX-License-Identifier: Apache-2.0
// The page's link to the agent: events while it lives, and the honest word when it does not.
import type { ChangeEvent, WholeEvent } from "../feed-events.ts";

export type LinkState = "connecting" | "live" | "lost";

export interface LiveLinkOptions {
  readonly onwhole: (event: WholeEvent) => void;
  readonly onchange: (event: ChangeEvent) => void;
  readonly onstate: (state: LinkState) => void;
}

/** The agent says something every 2 s. */
const silenceMs = 6000;
const retryMs = 1500;

/** Keeps trying: an agent that restarts is back by itself. */
export function openLiveLink({ onwhole, onchange, onstate }: LiveLinkOptions): void {
  let silence: ReturnType<typeof setTimeout> | undefined;
  const open = (): void => {
    const events = new EventSource("events");
    const heard = (): void => {
      clearTimeout(silence);
      silence = setTimeout(again, silenceMs);
      onstate("live");
    };
    const again = (): void => {
      clearTimeout(silence);
      events.close();
      onstate("lost");
      setTimeout(open, retryMs);
    };
    events.addEventListener("whole", ({ data }: MessageEvent<string>) => {
      heard();
      onwhole(JSON.parse(data) as WholeEvent);
    });
    events.addEventListener("change", ({ data }: MessageEvent<string>) => {
      heard();
      onchange(JSON.parse(data) as ChangeEvent);
    });
    events.addEventListener("error", again);
  };
  onstate("connecting");
  open();
}
