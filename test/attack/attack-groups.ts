// SPDX-License-Identifier: Apache-2.0
// All attacks in the order of the campaign; each group has an agent of its own.
import type { AttackGroup } from "./attack.ts";
import { answersOfApiServer } from "./attacks/answers-of-api-server.ts";
import { answersOfZtunnel } from "./attacks/answers-of-ztunnel.ts";
import { certificateAttacks } from "./attacks/certificates.ts";
import { cniCalls } from "./attacks/cni-calls.ts";
import { folderAttacks, umaskAttacks } from "./attacks/folders.ts";
import { portAttacks } from "./attacks/ports.ts";
import { processesOfPods } from "./attacks/processes-of-pods.ts";
import { rulesOfPods } from "./attacks/rules-of-pods.ts";
import { littleMemory, stubbornTool } from "./attacks/short-of-means.ts";
import { socketAttacks } from "./attacks/sockets.ts";
import { wordsOfPods } from "./attacks/words-of-pods.ts";

export const attackGroups: readonly AttackGroup[] = [
  { name: "words-of-pods", attacks: wordsOfPods },
  answersOfApiServer,
  portAttacks,
  { name: "sockets", attacks: [...socketAttacks, ...cniCalls] },
  { name: "answers-of-ztunnel", attacks: answersOfZtunnel },
  { name: "rules-of-pods", attacks: rulesOfPods },
  { name: "processes-of-pods", attacks: processesOfPods },
  folderAttacks,
  umaskAttacks,
  certificateAttacks,
  littleMemory,
  stubbornTool,
];
