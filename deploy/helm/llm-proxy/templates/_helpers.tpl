{{- define "llm-proxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "llm-proxy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "llm-proxy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "llm-proxy.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Labels that select Pods: (list $ "gateway"). */ -}}
{{- define "llm-proxy.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "llm-proxy.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "llm-proxy.labels" -}}
{{- $ := index . 0 -}}
{{ include "llm-proxy.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* metadata of an object: (list $ "gateway" "name"). */ -}}
{{- define "llm-proxy.metadata" -}}
{{- $ := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "llm-proxy.labels" (list $ (index . 1)) | nindent 2 }}
{{- end -}}

{{- define "llm-proxy.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "llm-proxy.isProduction" -}}
{{- if eq .Values.profile "production" }}true{{ end -}}
{{- end -}}

{{- define "llm-proxy.ownPostgres" -}}
{{- if kindIs "bool" .Values.trialStores.postgres.enabled -}}
{{- if .Values.trialStores.postgres.enabled }}true{{ end -}}
{{- else if eq .Values.profile "trial" }}true{{ end -}}
{{- end -}}

{{- define "llm-proxy.ownValkey" -}}
{{- if kindIs "bool" .Values.trialStores.valkey.enabled -}}
{{- if .Values.trialStores.valkey.enabled }}true{{ end -}}
{{- else if eq .Values.profile "trial" }}true{{ end -}}
{{- end -}}

{{- /* Whether this release makes the Secret: (list $ "gateway"). */ -}}
{{- define "llm-proxy.makesSecret" -}}
{{- $ := index . 0 -}}
{{- if and (not (index $.Values.secrets (index . 1)).existingSecret) (not $.Values.secrets.external.enabled) }}true{{ end -}}
{{- end -}}

{{- define "llm-proxy.secretName" -}}
{{- $ := index . 0 -}}
{{- default (printf "%s-%s" (include "llm-proxy.fullname" $) (index . 1)) (index $.Values.secrets (index . 1)).existingSecret -}}
{{- end -}}

{{- /* Hooks before the rest need a database and Secrets that are there before the rest. */ -}}
{{- define "llm-proxy.hooksFirst" -}}
{{- if and (not (include "llm-proxy.ownPostgres" .)) (not (include "llm-proxy.makesSecret" (list . "gateway"))) (not .Values.secrets.external.enabled) }}true{{ end -}}
{{- end -}}

{{- define "llm-proxy.configMap" -}}
{{- if .Values.sidecar.existingConfigMap -}}
{{- .Values.sidecar.existingConfigMap -}}
{{- else if .Values.sidecar.config -}}
{{- include "llm-proxy.fullname" . }}-litellm-config
{{- end -}}
{{- end -}}

{{- /* A scalar as a variable's text: 20971520 and not 2.097152e+07. */ -}}
{{- define "llm-proxy.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- define "llm-proxy.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "llm-proxy.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* What every Pod has: (list $ uid). */ -}}
{{- define "llm-proxy.podBase" -}}
{{- $ := index . 0 -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "llm-proxy.podSecurity" (index . 1) | nindent 2 }}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where a Pod of ours may run: (list $ "gateway" .Values.gateway "pod-template-hash"). */ -}}
{{- define "llm-proxy.placement" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- $revision := index . 3 -}}
{{- with $values.topologyKeys }}
topologySpreadConstraints:
{{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "llm-proxy.selector" (list $ $component) | nindent 8 }}
    matchLabelKeys: [{{ $revision }}]
{{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- /* Settings that gateway, console and commands share, as variables. No secret is among them. */ -}}
{{- define "llm-proxy.settings" -}}
- {name: LLM_PROXY__ENVIRONMENT, value: production}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ include "llm-proxy.text" $value | quote }}}
{{- end }}
{{- if .Values.caBundle.existingConfigMap }}
- {name: LLM_PROXY__CA_FILE, value: /etc/llm-proxy/ca/{{ .Values.caBundle.key }}}
{{- end }}
{{- end -}}

{{- /* Mounts of a container of the gateway's image: its folder, where settings lie as files, and /tmp. */ -}}
{{- define "llm-proxy.gatewayMounts" -}}
- {name: settings, mountPath: /data/.keys, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.caBundle.existingConfigMap }}
- {name: ca, mountPath: /etc/llm-proxy/ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "llm-proxy.gatewayVolumes" -}}
- name: settings
  secret: {secretName: {{ include "llm-proxy.secretName" (list . "gateway") }}, defaultMode: 0440}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- include "llm-proxy.caVolume" . }}
{{- end -}}

{{- define "llm-proxy.caVolume" -}}
{{- if .Values.caBundle.existingConfigMap }}
- name: ca
  configMap: {name: {{ .Values.caBundle.existingConfigMap }}}
{{- end }}
{{- end -}}

{{- define "llm-proxy.pdb" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
{{- if $values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "llm-proxy.metadata" (list $ $component (printf "%s-%s" (include "llm-proxy.fullname" $) $component)) | nindent 2 }}
spec:
  maxUnavailable: {{ $values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "llm-proxy.selector" (list $ $component) | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "llm-proxy.serviceAccount" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "llm-proxy.metadata" (list $ $component (printf "%s-%s" (include "llm-proxy.fullname" $) $component)) | nindent 2 }}
  {{- with (index . 2).serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}

{{- define "llm-proxy.hpa" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $scaling := (index . 2).autoscaling -}}
{{- if $scaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "llm-proxy.metadata" (list $ $component (printf "%s-%s" (include "llm-proxy.fullname" $) $component)) | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ index . 3 }}
    name: {{ include "llm-proxy.fullname" $ }}-{{ $component }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ $scaling.cpuPercent }}}
    {{- if and $scaling.inFlight $scaling.inFlight.enabled }}
    - type: Pods
      pods:
        metric: {name: {{ $scaling.inFlight.metric }}}
        target: {type: AverageValue, averageValue: {{ $scaling.inFlight.perPod | quote }}}
    {{- end }}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 0
      policies: [{type: Percent, value: 100, periodSeconds: 30}, {type: Pods, value: 2, periodSeconds: 30}]
    scaleDown:
      stabilizationWindowSeconds: {{ $scaling.scaleDownAfterSeconds }}
      policies: [{type: Pods, value: 1, periodSeconds: 60}]
{{- end }}
{{- end -}}
