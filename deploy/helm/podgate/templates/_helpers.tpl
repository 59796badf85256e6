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

{{/* What both containers of the clean-up have. */}}
{{- define "podgate.cleanup.container" -}}
image: {{ include "podgate.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add: [NET_ADMIN]
  {{- with .Values.seLinuxOptions }}
  seLinuxOptions: {{- toYaml . | nindent 4 }}
  {{- end }}
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 128Mi}
{{- end }}

{{/* What both kinds of monitor say about an endpoint. */}}
{{- define "podgate.endpoint" -}}
path: /metrics
honorLabels: true
{{- if .Values.metrics.tlsSecret }}
scheme: https
tlsConfig:
  serverName: {{ .Values.metrics.tlsServerName }}
  ca:
    secret: {name: {{ .Values.metrics.tlsAuthority.secret }}, key: {{ .Values.metrics.tlsAuthority.key }}}
{{- end }}
{{- if .Values.metrics.tokenSecret }}
authorization:
  credentials: {name: {{ .Values.metrics.tokenSecret }}, key: token}
{{- end }}
{{- end }}
