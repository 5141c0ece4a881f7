{{/*
The agent's settings as a JSON object of strings; the DaemonSet carries its checksum, so that a change reaches the pods.
*/}}
{{- define "ambient-cni.config" -}}
{{- $values := include "ambient-cni.values" . | fromYaml -}}
{{- $ambient := $values.ambient -}}
{{- $config := dict
  "AGENT_AWAY_POLICY" $values.agentAwayPolicy
  "AGENT_WAIT_SECONDS" (toString $values.agentWaitSeconds)
  "AMBIENT_DNS_CAPTURE" (toString $ambient.dnsCapture)
  "AMBIENT_ENABLED" (toString $ambient.enabled)
  "AMBIENT_IPV6" (toString $ambient.ipv6)
  "CHAINED_CNI_PLUGIN" (toString $values.chained)
  "CNI_CONF_GROUP_READ" (toString $values.cniConfGroupRead)
  "ESTABLISHED_CONNECTIONS" $values.establishedConnections
  "EXCLUDE_NAMESPACES" (join "," $values.excludeNamespaces)
  "HEALTH_PORT" (toString $values.healthPort)
  "ISTIO_OWNED_CNI_CONFIG" (toString $values.istioOwnedCNIConfig)
  "LEAVE_DRAIN_MS" (toString $values.leaveDrainMs)
  "LEAVE_PAUSE_MS" (toString $values.leavePauseMs)
  "MONITORING_PORT" (toString $values.monitoringPort)
  "NRI_REFUSE" (toString $values.nri.refuse)
  "PROBE_MATCH" $values.probeMatch
  "RELEASE_PODS_ON_UNINSTALL" (toString $values.releasePodsOnUninstall)
  "REPLACE_ISTIO_CNI" (toString $values.replaceIstioCni)
  "SYSTEM_NAMESPACE" $values.global.istioNamespace
-}}
{{- if not $values.nri.enabled -}}
{{- $_ := set $config "NRI_ENABLED" "false" -}}
{{- end -}}
{{- with $ambient.enablementSelectors -}}
{{- $_ := set $config "AMBIENT_ENABLEMENT_SELECTOR" (toJson .) -}}
{{- end -}}
{{- with $values.cniConfFileName -}}
{{- $_ := set $config "CNI_CONF_NAME" . -}}
{{- end -}}
{{- with $values.istioOwnedCNIConfigFileName -}}
{{- $_ := set $config "ISTIO_OWNED_CNI_CONFIG_FILENAME" . -}}
{{- end -}}
{{- /* without effect; the agent's log names the command that serves the page */ -}}
{{- if $values.dashboard -}}
{{- $_ := set $config "DASHBOARD" "true" -}}
{{- end -}}
{{- with $values.forceIptablesBinary -}}
{{- $_ := set $config "FORCE_IPTABLES_BINARY" . -}}
{{- end -}}
{{- with $values.repair -}}
{{- if .enabled -}}
{{- $_ := set $config "REPAIR_ENABLED" "true" -}}
{{- $_ := set $config "REPAIR_REPAIR_PODS" (toString .repairPods) -}}
{{- $_ := set $config "REPAIR_DELETE_PODS" (toString .deletePods) -}}
{{- $_ := set $config "REPAIR_LABEL_PODS" (toString .labelPods) -}}
{{- $_ := set $config "REPAIR_INIT_CONTAINER_NAME" .initContainerName -}}
{{- $_ := set $config "REPAIR_BROKEN_POD_LABEL_KEY" .brokenPodLabelKey -}}
{{- $_ := set $config "REPAIR_BROKEN_POD_LABEL_VALUE" (toString .brokenPodLabelValue) -}}
{{- end -}}
{{- end -}}
{{- if $values.global.nativeNftables -}}
{{- $_ := set $config "NATIVE_NFTABLES" "true" -}}
{{- end -}}
{{- range $name, $value := $values.env -}}
{{- $_ := set $config $name (toString $value) -}}
{{- end -}}
{{- toJson $config -}}
{{- end -}}
