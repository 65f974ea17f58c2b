{{/* Names and labels */}}

{{- define "trainbeacon.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "trainbeacon.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "trainbeacon.labels" -}}
{{ include "trainbeacon.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: trainbeacon
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of an object that the Prometheus Operator selects: ours, and those that it asks for. */}}
{{- define "trainbeacon.operatorLabels" -}}
{{ include "trainbeacon.labels" . }}
{{- with .Values.operator.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "trainbeacon.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end }}

{{/*
Whether an object is made: "true" or "". The switch is true, false, or "auto", which makes it where the
cluster knows its kind. Takes (list root switch kind).
*/}}
{{- define "trainbeacon.wanted" -}}
{{- $root := index . 0 -}}{{- $switch := index . 1 -}}{{- $kind := index . 2 -}}
{{- if kindIs "bool" $switch -}}
{{- if $switch }}true{{ end -}}
{{- else if $root.Capabilities.APIVersions.Has $kind }}true{{ end -}}
{{- end }}

{{/* Restricted pod security */}}

{{- define "trainbeacon.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "trainbeacon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* TLS and passwords of /metrics, one switch for exporter, probe and monitor */}}

{{- define "trainbeacon.web" -}}
{{- if or .Values.web.tls.enabled .Values.web.auth.enabled }}true{{ end -}}
{{- end }}

{{- define "trainbeacon.webSecret" -}}
{{- default (printf "%s-web" (include "trainbeacon.fullname" .)) .Values.web.existingSecret -}}
{{- end }}

{{- define "trainbeacon.scheme" -}}
{{- if .Values.web.tls.enabled }}https{{ else }}http{{ end -}}
{{- end }}

{{/* The web configuration file of the exporter. */}}
{{- define "trainbeacon.webConfig" -}}
{{- with .Values.web.tls }}
{{- if .enabled }}
tls_server_config:
  cert_file: /etc/trainbeacon/tls/tls.crt
  key_file: /etc/trainbeacon/tls/tls.key
  min_version: TLS12
  {{- if .clientCertificate.required }}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: /etc/trainbeacon/tls/ca.crt
  {{- end }}
{{- end }}
{{- end }}
{{- with .Values.web.auth }}
{{- if .enabled }}
basic_auth_users:
  {{- range $name, $hash := .users }}
  {{ $name | quote }}: {{ $hash | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* How the kubelet asks whether the exporter lives: it has no client certificate. */}}
{{- define "trainbeacon.probe" -}}
{{- if and .Values.web.tls.enabled .Values.web.tls.clientCertificate.required -}}
tcpSocket:
  port: {{ .Values.join.port }}
{{- else -}}
httpGet:
  path: /healthz
  port: {{ .Values.join.port }}
  scheme: {{ include "trainbeacon.scheme" . | upper }}
{{- end }}
{{- end }}

{{/* Series that one target may have: twice what its ranks, GPUs, runs and host can have. */}}
{{- define "trainbeacon.sampleLimit" -}}
{{- $budget := .Files.Get "files/budgets.yaml" | fromYaml -}}
{{- $node := .Values.podMonitor.node -}}
{{- $ranks := mul $budget.rank $node.ranks -}}
{{- $gpus := mul $budget.gpu $node.gpus -}}
{{- $runs := mul $budget.run $node.runs -}}
{{- mul 2 (add $ranks $gpus $runs $budget.node) -}}
{{- end }}

{{- define "trainbeacon.notifyUrl" -}}
http://{{ include "trainbeacon.fullname" . }}-notify.{{ .Release.Namespace }}.svc:{{ .Values.notify.port }}
{{- end }}

{{/* Names of the groups of rules that are not switched off, one a line. */}}
{{- define "trainbeacon.groups" -}}
{{- $root := . -}}
{{- range $path, $_ := .Files.Glob "files/rules/*/*.yml" }}
{{- range $group := ($root.Files.Get $path | fromYaml).groups }}
{{- $own := index $root.Values.prometheusRule.groups $group.name | default dict }}
{{- $left := list }}
{{- range $rule := $group.rules }}
{{- $switch := index $root.Values.prometheusRule.alerts (default "" $rule.alert) | default dict }}
{{- if ne (toString (index $switch "enabled")) "false" }}{{ $left = append $left $rule }}{{ end }}
{{- end }}
{{- if and $left (ne (toString (index $own "enabled")) "false") }}
{{ $group.name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
