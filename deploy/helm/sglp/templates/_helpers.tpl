{{- define "sglp.name" -}}
{{- if contains "sglp" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-sglp" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* What selects pods; never changes. */}}
{{- define "sglp.selector" -}}
app.kubernetes.io/name: sglp
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sglp.labels" -}}
{{ include "sglp.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What is the same in every pod: pod security `restricted`, and no token of the cluster. */}}
{{- define "sglp.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sglp.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "sglp.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sglp.settings" -}}
- {name: SGLP_ARTIFACT_URL, value: {{ .Values.artifactUrl | quote }}}
{{- $classes := list }}
{{- range .Values.workers }}
{{- $classes = append $classes .gpuClass }}
{{- end }}
- {name: SGLP_GPU_CLASSES, value: {{ toJson $classes | quote }}}
{{- if .Values.models.claim }}
- {name: SGLP_MODEL_ROOTS, value: '["/models"]'}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: SGLP_{{ upper $name }}
  value: {{ if kindIs "string" $value }}{{ quote $value }}{{ else }}{{ toJson $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* Environment variables from secrets: a list of the root and the names in .Values.secrets. */}}
{{- define "sglp.secrets" -}}
{{- $root := index . 0 }}
{{- range $name := rest . }}
{{- $secret := index $root.Values.secrets $name }}
{{- if $secret.name }}
- name: {{ if eq $name "database" }}SGLP_DATABASE_URL{{ else if eq $name "broker" }}SGLP_BROKER_URL{{ else }}SGLP_{{ snakecase $name | upper }}{{ end }}
  valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}
{{- end }}
{{- end }}
{{- end }}
