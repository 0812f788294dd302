{{- define "keyward.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* The prefix of all names. Short enough for "-relay-headless" behind it. */ -}}
{{- define "keyward.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "keyward.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "keyward.controlPlane.name" -}}{{ include "keyward.fullname" . }}{{- end -}}
{{- define "keyward.relay.name" -}}{{ include "keyward.fullname" . }}-relay{{- end -}}
{{- define "keyward.gateway.name" -}}{{ include "keyward.fullname" . }}-gateway{{- end -}}

{{- /* The labels by which a component's pods are selected: list of the root context and the component. */ -}}
{{- define "keyward.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "keyward.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "keyward.labels" -}}
{{- $root := index . 0 -}}
{{ include "keyward.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: keyward
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* An image: list of the root context and its values. A digest wins over a tag. */ -}}
{{- define "keyward.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- /* The name of a component's service account: list of the component's name and its values. */ -}}
{{- define "keyward.serviceAccountName" -}}
{{- $account := index . 1 -}}
{{- if $account.create -}}{{ default (index . 0) $account.name }}{{- else -}}{{ default "default" $account.name }}{{- end -}}
{{- end -}}

{{- define "keyward.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- /* The pod's user. No fsGroup for files that only their owner may read: see the volumes. */ -}}
{{- define "keyward.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
# Only the volume's root gets the group, once: the database and the tokens stay readable by their owner only.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- /* What a component's values say about scheduling. */ -}}
{{- define "keyward.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* The host and port that the gateway's feed comes from. */ -}}
{{- define "keyward.feedHost" -}}
{{- if .Values.gateway.controlPlane.host -}}
{{ .Values.gateway.controlPlane.host }}
{{- else if .Values.relay.enabled -}}
{{ include "keyward.relay.name" . }}-headless.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- else if .Values.controlPlane.enabled -}}
{{ include "keyward.controlPlane.name" . }}-headless.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- else -}}
{{- fail "gateway.controlPlane.host: expected the host of a control plane or relay, as the release contains neither" -}}
{{- end -}}
{{- end -}}

{{- define "keyward.feedPort" -}}
{{- if .Values.gateway.controlPlane.host -}}{{ .Values.gateway.controlPlane.port | int }}{{- else -}}8081{{- end -}}
{{- end -}}
