{{/*
All values as one map: what is below `cni` wins over what is beside it, and what is left empty is what the platform says.
*/}}
{{- define "ambient-cni.values" -}}
{{- $values := deepCopy .Values -}}
{{- with .Values.cni -}}
{{- $values = mergeOverwrite $values (deepCopy .) -}}
{{- end -}}
{{- $platforms := .Files.Get "files/platforms.yaml" | fromYaml -}}
{{- $name := coalesce $values.platform $values.global.platform "default" -}}
{{- if not (hasKey $platforms $name) -}}
{{- fail (printf "global.platform %q is not known: use one of %s" $name (keys $platforms | sortAlpha | join ", ")) -}}
{{- end -}}
{{- range $key, $value := mergeOverwrite (deepCopy $platforms.default) (get $platforms $name) -}}
{{- $given := get $values $key -}}
{{- if not (or (kindIs "bool" $given) $given) -}}
{{- $_ := set $values $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $values -}}
{{- end -}}

{{- define "ambient-cni.name" -}}
{{- $values := include "ambient-cni.values" . | fromYaml -}}
{{- if $values.istioCniNames }}istio-cni{{ else }}ambient-cni{{ end -}}
{{- end -}}

{{- define "ambient-cni.labels" -}}
app.kubernetes.io/name: {{ include "ambient-cni.name" . }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "ambient-cni.image" -}}
{{- $values := include "ambient-cni.values" . | fromYaml -}}
{{- if contains "/" $values.image -}}
{{- $values.image -}}
{{- else -}}
{{- printf "%s/%s:%s" $values.hub $values.image ($values.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
