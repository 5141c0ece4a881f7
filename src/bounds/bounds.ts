// SPDX-License-Identifier: Apache-2.0
// Every word that comes from somebody else: where it first becomes a value of ours, how much of it there may be, and what
// becomes of the rest. The agent works for every tenant of a node, so each of these words is an attacker's.

/** One kind of word. A size is in bytes of UTF-8, of each; a count is of all in one object, call or line. */
export interface Bound {
  /** File of src/ that converts it, and asks this table. */
  readonly at: string;
  readonly bytes?: number;
  readonly count?: number;
  /**
   * What is over it: `cut` (shown or read up to there, and ends in "…"), `left-out` (as if it were not there), `refused` (so
   * is the whole object, call or answer, with the reason).
   */
  readonly over: "cut" | "left-out" | "refused";
}

const podFacts = "kube/pod-facts.ts";
const suspectPod = "repair/suspect-pod.ts";
const cniRequest = "cni/cni-request.ts";
const apiClient = "kube/api-client.ts";
const ttrpc = "nri/ttrpc.ts";
const nriMessages = "nri/messages.ts";
const logFields = "log/bounded-fields.ts";
const mib = 1 << 20;

/** The table; `test/bounds` holds that each row is asked where it says. */
export const bounds = {
  // --- pods and namespaces, as the API server tells of them
  /** Names of pods, nodes and service accounts. Source: kubernetes apimachinery pkg/util/validation, DNS1123SubdomainMaxLength. */
  objectName: { at: podFacts, bytes: 253, over: "refused" },
  /** Source: kubernetes apimachinery pkg/util/validation, DNS1123LabelMaxLength. */
  namespaceName: { at: podFacts, bytes: 63, over: "refused" },
  /** 36 from an API server; a static pod's is a hash of 32. Source: kubernetes pkg/kubelet/config/common.go, applyDefaults. */
  uid: { at: podFacts, bytes: 128, over: "refused" },
  /** An opaque text, in practice 20 digits at most. Source: Kubernetes API concepts, "Resource versions". */
  resourceVersion: { at: podFacts, bytes: 128, over: "left-out" },
  /** The longest of the five is "Succeeded". Source: kubernetes api core/v1 types.go, PodPhase. */
  phase: { at: podFacts, bytes: 16, over: "left-out" },
  /**
   * How many labels there are is limited by the size of the object alone: Istio's and "app" come first where there are more.
   * Source: kubernetes apimachinery pkg/apis/meta/v1/validation, ValidateLabels.
   */
  labels: { at: podFacts, count: 256, over: "left-out" },
  /** A prefix of 253, a slash, a name of 63. Source: Kubernetes documentation, "Labels and Selectors", syntax. */
  labelKey: { at: podFacts, bytes: 317, over: "left-out" },
  /** Source: kubernetes apimachinery pkg/util/validation, LabelValueMaxLength. */
  labelValue: { at: podFacts, bytes: 63, over: "left-out" },
  /**
   * All annotations of an object together may have 256 KiB, and any one of ours all of them; the longest that has a use is a
   * list of 64 interface names. Source: kubernetes apimachinery pkg/api/validation/objectmeta.go, TotalAnnotationSizeLimitB.
   */
  annotation: { at: podFacts, bytes: 2048, over: "cut" },
  /** An address of each family. Source: kubernetes pkg/apis/core/validation, validatePodIPs: one for each IP family. */
  podAddresses: { at: podFacts, bytes: 45, count: 8, over: "left-out" },
  /** 64 hexadecimal digits behind the runtime's name. Source: kubernetes api core/v1 types.go, ContainerStatus. */
  containerIds: { at: podFacts, bytes: 253, count: 256, over: "left-out" },
  /** Each is four rules. A name has 15 bytes. Source: Linux linux/if.h, IFNAMSIZ. */
  reroutedInterfaces: { at: "kube/pod-overrides.ts", bytes: 15, count: 64, over: "left-out" },
  /**
   * Rules in one chain of a sidecar pod: each port, range and interface of its annotations is one, a range and an interface together
   * are one. As many as are told apart of a chain of iptables-legacy.
   */
  sidecarRules: { at: "redirection/sidecar-rules.ts", count: 256, over: "refused" },
  /** What cannot be followed of a pod; then how much more there is. */
  podWarnings: { at: "kube/pod-overrides.ts", count: 3, over: "cut" },

  // --- and of pods that may have to be repaired
  /** Names of containers. Source: kubernetes apimachinery pkg/util/validation, DNS1123LabelMaxLength. */
  initContainers: { at: suspectPod, bytes: 63, count: 256, over: "left-out" },
  /** Source: kubernetes api core/v1 types.go, Container.TerminationMessagePath: 4096 bytes. */
  terminationMessage: { at: suspectPod, bytes: 4096, over: "left-out" },
  /** "Completed", "Error", "OOMKilled" and the like; and when it was, in RFC 3339. */
  terminationWord: { at: suspectPod, bytes: 128, over: "left-out" },

  // --- answers of the API server; those of lists are in kube/list-budget.ts
  /**
   * One object, by itself or in a list or an event. etcd takes 1.5 MiB, and JSON as Go writes it has six bytes for one "<": 9 MiB.
   * Source: etcd "System limits", request size limit; Go encoding/json, HTMLEscape.
   */
  object: { at: apiClient, bytes: 10 * mib, over: "refused" },
  /** One field of those that are read of an object: an annotation of 256 KiB, six bytes for each of its. Source: as `object`. */
  field: { at: "kube/pick-fields.ts", bytes: 2 * mib, over: "left-out" },
  /** Containers of a pod, or variables of one, among which names are looked for. */
  namedItems: { at: "kube/pick-fields.ts", count: 4096, over: "left-out" },
  /** A failure's Status, or what a proxy said in its place. */
  errorBody: { at: "kube/api-requests.ts", bytes: mib, over: "cut" },
  errorMessage: { at: "kube/api-error.ts", bytes: 1024, over: "cut" },
  errorCauses: { at: "kube/api-error.ts", bytes: 253, count: 16, over: "left-out" },
  /** What is left of a list without its items: kind and metadata. */
  listHead: { at: "kube/list-splitter.ts", bytes: 64 << 10, over: "refused" },
  /** Base64 of a key and a version. Source: kubernetes apiserver pkg/storage/continue.go. */
  continueToken: { at: "kube/list-budget.ts", bytes: 8192, over: "refused" },

  // --- what a CNI call says
  /** Of the call and its network's configuration; the launcher relays no more. */
  cniBody: { at: "cni/plugin-server.ts", bytes: mib, over: "refused" },
  cniHeaders: { at: "cni/plugin-server.ts", bytes: 64 << 10, over: "refused" },
  /** Source: the runtimes name files by it, and Linux limits.h NAME_MAX is 255. */
  cniContainerId: { at: cniRequest, bytes: 255, over: "refused" },
  /** Source: Linux linux/limits.h, PATH_MAX with its NUL. */
  cniNetns: { at: cniRequest, bytes: 4095, over: "refused" },
  /** Source: containernetworking/cni pkg/utils, ValidateInterfaceName; Linux linux/if.h, IFNAMSIZ. */
  cniIfname: { at: cniRequest, bytes: 15, over: "refused" },
  /** Source: containernetworking/cni pkg/utils, ValidateNetworkName, which has characters but no length. */
  cniNetwork: { at: cniRequest, bytes: 8192, over: "refused" },
  /** Addresses of prevResult, for looking up whose they are. */
  cniAddresses: { at: cniRequest, bytes: 45, count: 64, over: "left-out" },
  /** GC: with more nothing is cleared up, for who is not in the list may still be there. */
  cniAttachments: { at: cniRequest, count: 16_384, over: "left-out" },
  /** A word of the call in an error's text. */
  cniEcho: { at: cniRequest, bytes: 64, over: "cut" },

  // --- what the container runtime says (NRI)
  /** Of the multiplexed connection: a ttrpc message with its head. Source: containerd/nri pkg/net/multiplex/mux.go, maxPayloadSize. */
  nriPiece: { at: "nri/mux.ts", bytes: 10 + (4 << 20), over: "refused" },
  /** Source: containerd/ttrpc channel.go, messageLengthMax. */
  nriMessage: { at: ttrpc, bytes: 4 << 20, over: "refused" },
  /** Names of a service and a method. */
  nriMethod: { at: ttrpc, bytes: 128, over: "refused" },
  /** Why a call is refused, by either side: with its envelope it must fit into a buffer of 4096 bytes. Source: Go bufio, defaultBufSize. */
  nriRefusal: { at: ttrpc, bytes: 2048, over: "cut" },
  /** A plugin's calls under way; the runtime makes one at a time. */
  nriCalls: { at: "nri/session.ts", count: 64, over: "refused" },
  /** Of one Synchronize; more than a node can have. */
  nriSandboxes: { at: nriMessages, count: 4096, over: "left-out" },
  /** As `cniContainerId`; a sandbox with a longer word is as if it were not there. */
  nriId: { at: nriMessages, bytes: 255, over: "left-out" },
  /** As `objectName`. */
  nriName: { at: nriMessages, bytes: 253, over: "left-out" },
  /** As `cniNetns`. */
  nriPath: { at: nriMessages, bytes: 4095, over: "left-out" },
  nriAddresses: { at: nriMessages, bytes: 45, count: 16, over: "left-out" },
  /** Name and version of the runtime, for people. */
  nriRuntime: { at: nriMessages, bytes: 128, over: "cut" },

  // --- ztunnel
  /** Why it refused; a packet may have 64 KiB. */
  nack: { at: "ztunnel/zds-codec.ts", bytes: 1024, over: "cut" },
  /** Pods that ztunnel refuses in one snapshot, a line each; then how many. */
  snapshotRefusals: { at: "ztunnel/zds-connection.ts", count: 3, over: "cut" },

  // --- what the agent says with such words in it
  /** Source: kubernetes pkg/apis/core/validation/events.go, NoteLengthLimit. */
  eventMessage: { at: "kube/event-recorder.ts", bytes: 1024, over: "cut" },
  logMessage: { at: logFields, bytes: 4096, over: "cut" },
  logText: { at: logFields, bytes: 2048, over: "cut" },
  /** A stack is ours, but for the message that it begins with. */
  logStack: { at: logFields, bytes: 8192, over: "cut" },
  /** Of a line, or of an object in it. */
  logFields: { at: logFields, count: 64, over: "left-out" },
  logItems: { at: logFields, count: 32, over: "left-out" },
  /** Objects in objects. */
  logDepth: { at: logFields, count: 4, over: "left-out" },
} as const satisfies Readonly<Record<string, Bound>>;
