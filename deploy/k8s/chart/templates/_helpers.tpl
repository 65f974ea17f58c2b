{{/* Values */}}

{{/*
What every template begins with: values that are missing or null are the default ones (an empty key in a
values file is a null, and takes helm's default away), and what cannot work together is refused.
*/}}
{{- define "trainbeacon.prepare" -}}
{{- include "trainbeacon.fill" (list .Values (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- include "trainbeacon.whole" .Values -}}
{{- range list .Values.dashboards.labels .Values.dashboards.annotations .Values.networkPolicy.monitoringNamespaceSelector .Values.notify.nodeSelector -}}
{{- include "trainbeacon.prune" . -}}
{{- end -}}
{{- if not .Values.enabled -}}
{{- range $name := list "podMonitor" "prometheusRule" "dashboards" "alertmanagerConfig" "notify" "networkPolicy" "sampleJob" -}}
{{- $_ := set (index $.Values $name) "enabled" false -}}
{{- end -}}
{{- $_ := set .Values.web.tls "enabled" false -}}{{- $_ := set .Values.web.auth "enabled" false -}}
{{- $_ := set .Values.tests "prometheusUrl" "" -}}{{- $_ := set .Values "extraObjects" list -}}
{{- end -}}
{{- /* Defaults of maps with free keys are here: helm would merge what is given into those of values.yaml. */ -}}
{{- if not .Values.dashboards.labels -}}{{- $_ := set .Values.dashboards "labels" (dict "grafana_dashboard" "1") -}}{{- end -}}
{{- if not .Values.dashboards.annotations -}}{{- $_ := set .Values.dashboards "annotations" (dict "grafana_folder" "TrainBeacon") -}}{{- end -}}
{{- if not .Values.notify.receivers -}}{{- $_ := set .Values.notify "receivers" (dict "team" dict) -}}{{- end -}}
{{- if not .Values.networkPolicy.monitoringNamespaceSelector -}}
{{- $_ := set .Values.networkPolicy "monitoringNamespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" "monitoring")) -}}
{{- end -}}
{{- $scrape := .Values.podMonitor -}}
{{- $interval := include "trainbeacon.milliseconds" $scrape.interval | int64 -}}
{{- $timeout := include "trainbeacon.milliseconds" $scrape.scrapeTimeout | int64 -}}
{{- if or (lt $interval 1) (lt $timeout 1) -}}
{{- fail (printf "podMonitor.interval=%s, podMonitor.scrapeTimeout=%s: neither can be zero." $scrape.interval $scrape.scrapeTimeout) -}}
{{- end -}}
{{- if gt $timeout $interval -}}
{{- fail (printf "podMonitor.scrapeTimeout=%s is above podMonitor.interval=%s: the operator would leave the monitor out without a word. Set podMonitor.scrapeTimeout to at most %s." $scrape.scrapeTimeout $scrape.interval $scrape.interval) -}}
{{- end -}}
{{- range $name, $_ := .Values.commonLabels -}}
{{- if or (eq $name $.Values.join.label) (has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component")) -}}
{{- fail (printf "commonLabels.%s: our selectors go by this label. Leave it out; nameOverride sets app.kubernetes.io/name." $name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Set in the values what they lack of the defaults. Takes (list values defaults). Not within resources: there a
null takes a request or a limit away, as everywhere in helm.
*/}}
{{- define "trainbeacon.fill" -}}
{{- $values := index . 0 -}}
{{- range $name, $default := index . 1 -}}
{{- $given := index $values $name -}}
{{- if kindIs "invalid" $given -}}
{{- $_ := set $values $name (deepCopy $default) -}}
{{- else if and (kindIs "map" $default) (not (has $name (list "resources" "agentResources"))) -}}
{{- include "trainbeacon.fill" (list $given $default) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Write whole numbers as such, in place: those of a values file are floats to helm, and from a million on a float is
written 1e+06, which is no integer to a cluster (and OpenShift's fsGroup has ten digits). Takes a map.
*/}}
{{- define "trainbeacon.whole" -}}
{{- $values := . -}}
{{- range $name, $value := $values -}}
{{- if kindIs "map" $value -}}
{{- include "trainbeacon.whole" $value -}}
{{- else if kindIs "float64" $value -}}
{{- if eq $value (floor $value) -}}{{- $_ := set $values $name (int64 $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Take away, in place, what is null or an empty map or list: an empty selector would let everybody in, and a label
that is null is the empty one to a cluster. Takes a map with keys of the user's.
*/}}
{{- define "trainbeacon.prune" -}}
{{- $values := . -}}
{{- range $name, $value := $values -}}
{{- if kindIs "map" $value -}}{{- include "trainbeacon.prune" $value -}}{{- end -}}
{{- if or (kindIs "invalid" $value) (and (or (kindIs "map" $value) (kindIs "slice" $value)) (empty $value)) -}}
{{- $_ := unset $values $name -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A dashboard with the price of a GPU-hour that is set; as it is where that is the default. Takes (list root text). */}}
{{- define "trainbeacon.dashboard" -}}
{{- $root := index . 0 -}}{{- $text := index . 1 -}}
{{- $price := toString $root.Values.dashboards.gpuHourPrice -}}
{{- if and (contains "\"name\":\"price\"" $text) (ne $price (toString ($root.Files.Get "files/defaults.yaml" | fromYaml).dashboards.gpuHourPrice)) -}}
{{- $model := fromJson $text -}}
{{- range $variable := $model.templating.list -}}
{{- if eq $variable.name "price" -}}
{{- $chosen := dict "selected" true "text" $price "value" $price -}}
{{- $_ := set $variable "query" $price -}}{{- $_ := set $variable "current" $chosen -}}{{- $_ := set $variable "options" (list $chosen) -}}
{{- end -}}
{{- end -}}
{{- $text = toJson $model -}}
{{- end -}}
{{- $text -}}
{{- end }}

{{/* A duration as Prometheus writes it, in milliseconds. */}}
{{- define "trainbeacon.milliseconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end }}

{{/* Names and labels */}}

{{/*
Name that all objects begin with, at most 40 characters that a Service may have: it begins with a letter and
has no dots, as names of releases may. Where that changes the name, a hash keeps apart what was different.
*/}}
{{- define "trainbeacon.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $whole := .Values.fullnameOverride | default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) -}}
{{- $plain := regexReplaceAll "^([0-9])" (replace "." "-" $whole) "r${1}" -}}
{{- if and (eq $plain $whole) (le (len $plain) 40) -}}
{{- $plain -}}
{{- else -}}
{{- printf "%s-%s" (regexReplaceAll "-+$" (trunc 31 $plain) "") (sha256sum $whole | trunc 8) -}}
{{- end -}}
{{- end }}

{{- define "trainbeacon.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{/* The maps as one YAML map, so that no key stands twice: the later ones win. Takes a list. */}}
{{- define "trainbeacon.merged" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $name, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $all $name $value -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{/* What Services, policies and monitors find our own pods by. Takes (list root component). */}}
{{- define "trainbeacon.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of an object: ours, then the user's. Takes (list root component more-labels...). */}}
{{- define "trainbeacon.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "trainbeacon.selectorLabels" (list $root (index . 1)) | fromYaml -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $_ := set $own "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_") -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "trainbeacon" -}}
{{- $_ := set $own "helm.sh/chart" $chart -}}
{{- include "trainbeacon.merged" (concat (list $own $root.Values.commonLabels) (slice . 2)) -}}
{{- end }}

{{/* Labels of a pod: those that change with each version would be a new pod. Takes (list root component). */}}
{{- define "trainbeacon.podLabels" -}}
{{- $root := index . 0 -}}
{{- $own := include "trainbeacon.selectorLabels" . | fromYaml -}}
{{- include "trainbeacon.merged" (list (dict "app.kubernetes.io/part-of" "trainbeacon") $root.Values.commonLabels $own) -}}
{{- end }}

{{/* Labels of an object that the Prometheus Operator selects: also those that it asks for. */}}
{{- define "trainbeacon.operatorLabels" -}}
{{- include "trainbeacon.labels" (append . (index . 0).Values.operator.labels) -}}
{{- end }}

{{/* The reference of an image: its digest, if one is given, decides. Takes (list root image). */}}
{{- define "trainbeacon.imageReference" -}}
{{- $image := index . 1 -}}
{{- $tag := default (index . 0).Chart.AppVersion $image.tag -}}
{{- printf "%s:%s" $image.repository $tag -}}{{ with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "trainbeacon.image" -}}
{{- include "trainbeacon.imageReference" (list . .Values.image) -}}
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

{{/*
A comment in the place of an object that "auto" leaves out: `helm template` shows no notes, and knows no
kinds of a cluster. Takes (list root switch-name switch kind).
*/}}
{{- define "trainbeacon.leftOut" -}}
{{- $name := index . 1 -}}{{- $kind := index . 3 -}}
{{- if and (not (kindIs "bool" (index . 2))) (not ((index . 0).Capabilities.APIVersions.Has $kind)) }}
# LEFT OUT: {{ base $kind }}. {{ $name }}.enabled is "auto", and {{ $kind }} is not known here.
# If your cluster has the Prometheus Operator: helm template --api-versions={{ $kind }},
# or {{ $name }}.enabled=true. If it has not, docs/kubernetes.md says what to do without; false ends this comment.
{{- end }}
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
  port: {{ .Values.join.port | quote }}
{{- else -}}
httpGet:
  path: /healthz
  port: {{ .Values.join.port | quote }}
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
http://{{ include "trainbeacon.fullname" . }}-notify.{{ include "trainbeacon.namespace" . }}.svc:{{ .Values.notify.port }}
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
