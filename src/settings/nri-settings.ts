// SPDX-License-Identifier: Apache-2.0
// Whether and how the container runtime's own word of its sandboxes (NRI) is heard.
import type { SettingsReader } from "./settings-reader.ts";

/** How the runtime is heard. */
export interface NriSettings {
  /** `auto`: where there is a socket; `true`: the same, and that there is none is a fault of the node; `false`: not. */
  readonly enabled: "auto" | "true" | "false";
  /** The runtime's socket, as this process sees it. */
  readonly socketPath: string;
  /** Pods of the mesh that cannot be captured at once are refused, where our entry in the chain would have held them. */
  readonly refuse: boolean;
}

/** Source: containerd/nri pkg/api/plugin.go, DefaultSocketPath. */
const defaultSocketPath = "/var/run/nri/nri.sock";

export function readNriSettings(reader: SettingsReader): NriSettings {
  return {
    enabled: reader.choice("NRI_ENABLED", ["auto", "true", "false"], "auto"),
    socketPath: reader.path("NRI_SOCKET_PATH", defaultSocketPath),
    refuse: reader.flag("NRI_REFUSE", true),
  };
}
