// SPDX-License-Identifier: Apache-2.0
// The settings of the repair of sidecar pods that started without their rules, with istio-cni's names and defaults.
// Source: istio/istio cni/pkg/constants/constants.go, cni/pkg/cmd/root.go, cni/pkg/config/config.go.
import {
  fieldSelectorFault,
  labelKeyFault,
  labelSelectorFault,
  labelValueFault,
} from "../kube/selector-text.ts";
import type { SettingsReader } from "./settings-reader.ts";

/** What is done to a broken pod: its rules are written late, it is deleted so that its owner makes another, or it gets a label. */
export const repairModes = ["repair", "delete", "label"] as const;
export type RepairMode = (typeof repairModes)[number];

/** Which pods count as broken, and what is done to them. A filter that is "" or 0 lets everything through, as with istio-cni. */
export interface RepairSettings {
  /** undefined: nothing is repaired, and nobody is asked for pods. */
  readonly mode: RepairMode | undefined;
  /** Pods of this node only. */
  readonly nodeName: string;
  readonly labelKey: string;
  readonly labelValue: string;
  /** Annotation that a pod must have, whatever its value. */
  readonly sidecarAnnotation: string;
  readonly initContainerName: string;
  /** Compared without the white space around it. */
  readonly terminationMessage: string;
  readonly exitCode: number;
  /** As in a request's `labelSelector`; "" for all pods. */
  readonly labelSelectors: string;
  /** As in a request's `fieldSelector`, beside the one of the node; "" for all pods. */
  readonly fieldSelectors: string;
}

/** Source: istio/istio tools/istio-iptables/pkg/constants, ValidationErrorCode. */
const validationErrorCode = 126;
const defaultLabelKey = "cni.istio.io/uninitialized";
const defaultLabelValue = "true";

/** @param ownNode the agent's node, which is meant where no other is named */
export function readRepairSettings(reader: SettingsReader, ownNode: string): RepairSettings {
  const asked = readMode(reader);
  // what is wrong with the filters of a repair that is off keeps nobody from being ready
  const faultOf = (name: string, reason: string | undefined): boolean => {
    if (reason !== undefined && asked !== undefined) reader.fault(name, reason, off);
    return reason !== undefined;
  };
  const labelSelectors = reader.text("REPAIR_LABEL_SELECTORS", "");
  const fieldSelectors = reader.text("REPAIR_FIELD_SELECTORS", "");
  // a selector that is left out would have more pods deleted than anybody asked for
  const cannotSelect = [
    faultOf("REPAIR_LABEL_SELECTORS", labelSelectorFault(labelSelectors)),
    faultOf("REPAIR_FIELD_SELECTORS", fieldSelectorFault(fieldSelectors)),
  ].includes(true);
  const labelKey = reader.text("REPAIR_BROKEN_POD_LABEL_KEY", defaultLabelKey);
  const labelValue = reader.anyText("REPAIR_BROKEN_POD_LABEL_VALUE", defaultLabelValue);
  const cannotLabel =
    asked === "label" &&
    [
      faultOf("REPAIR_BROKEN_POD_LABEL_KEY", labelKeyFault(labelKey)),
      faultOf("REPAIR_BROKEN_POD_LABEL_VALUE", labelValueFault(labelValue)),
    ].includes(true);
  return {
    mode: cannotSelect || cannotLabel ? undefined : asked,
    nodeName: readNode(reader, { ownNode, isAsked: asked !== undefined }),
    labelKey,
    labelValue,
    sidecarAnnotation: reader.anyText("REPAIR_SIDECAR_ANNOTATION", "sidecar.istio.io/status"),
    initContainerName: reader.anyText("REPAIR_INIT_CONTAINER_NAME", "istio-validation"),
    terminationMessage: reader.anyText("REPAIR_INIT_CONTAINER_TERMINATION_MESSAGE", ""),
    exitCode: readExitCode(reader, asked !== undefined),
    labelSelectors,
    fieldSelectors,
  };
}

const off = "REPAIR_ENABLED=false";

/** Of several that are asked for the first counts. Source: istio/istio cni/pkg/repair/repaircontroller.go, ReconcilePod. */
function readMode(reader: SettingsReader): RepairMode | undefined {
  const isEnabled = reader.flag("REPAIR_ENABLED", true);
  const modes = (
    [
      ["REPAIR_REPAIR_PODS", "repair"],
      ["REPAIR_DELETE_PODS", "delete"],
      ["REPAIR_LABEL_PODS", "label"],
    ] as const
  ).flatMap(([name, mode]) => (reader.flag(name, false) ? [mode] : []));
  return isEnabled ? modes[0] : undefined;
}

function readNode(
  reader: SettingsReader,
  { ownNode, isAsked }: { readonly ownNode: string; readonly isAsked: boolean },
): string {
  const name = reader.text("REPAIR_NODE_NAME", ownNode);
  if (isAsked && name !== ownNode)
    reader.warn("REPAIR_NODE_NAME", `is not this agent's node ("${ownNode}"): that node's pods are repaired`);
  return name;
}

/** 0 is any; what is no number counts as 0 there, which would take each failure for a broken pod. */
function readExitCode(reader: SettingsReader, isAsked: boolean): number {
  const name = "REPAIR_INIT_CONTAINER_EXIT_CODE";
  if (isAsked) return reader.integer(name, { fallback: validationErrorCode, min: 0, max: 255 });
  const code = Number(reader.text(name, String(validationErrorCode)));
  return Number.isInteger(code) && code >= 0 && code <= 255 ? code : validationErrorCode;
}
