{{/* Names are fixed: two podgates in one cluster would fight over each node. */}}
{{- define "podgate.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "podgate.selector" -}}
app.kubernetes.io/name: podgate
app.kubernetes.io/component: agent
{{- end }}

{{- define "podgate.labels" -}}
{{ include "podgate.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
