{{- define "portway.name" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "portway.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "portway.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "portway.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "portway.labels" -}}
{{ include "portway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "portway.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "portway.configMapName" -}}
{{- .Values.existingConfigMap | default (include "portway.name" .) }}
{{- end }}

{{- /* What the chart sets in the configuration, under what `config` says. */}}
{{- define "portway.config" -}}
{{- $address := .Values.metrics.address | default (ternary "0.0.0.0" "127.0.0.1" (or .Values.podMonitor.enabled .Values.serviceMonitor.enabled)) }}
{{- if contains ":" $address }}{{ $address = printf "[%s]" $address }}{{ end }}
{{- $own := dict
  "apiVersion" "kubeproxy.config.k8s.io/v1alpha1"
  "kind" "KubeProxyConfiguration"
  "healthzBindAddress" (printf "0.0.0.0:%v" .Values.healthPort)
  "metricsBindAddress" (printf "%s:%v" $address .Values.metrics.port)
  "oomScoreAdj" -997
}}
{{- with .Values.kubeconfig }}
{{- $_ := set $own "clientConnection" (dict "kubeconfig" .) }}
{{- end }}
{{- if not .Values.sysctls }}
{{- $_ := set $own "conntrack" (dict "maxPerCore" 0 "min" 0 "tcpEstablishedTimeout" "0s" "tcpCloseWaitTimeout" "0s") }}
{{- end }}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.config)) }}
{{- end }}

{{- define "portway.args" -}}
- run
- --config=/var/lib/kube-proxy/config.conf
- --hostname-override=$(NODE_NAME)
{{- with .Values.serviceProxyName }}
- --service-proxy-name={{ . }}
{{- end }}
{{- if .Values.sysctls }}
- --sysctl-net=/host/proc/sys/net
{{- end }}
{{- if include "portway.takeover" . }}
- --takeover
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "portway.env" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- with .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ $.Values.k8sServicePort | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "portway.volumeMounts" -}}
- name: config
  mountPath: /var/lib/kube-proxy
  readOnly: true
{{- with .Values.kubeconfig }}
- name: kubeconfig
  mountPath: {{ . }}
  readOnly: true
{{- end }}
{{- end }}

{{- /* Nothing but the right to program the kernel's network. */}}
{{- define "portway.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  add: [NET_ADMIN]
readOnlyRootFilesystem: true
{{- end }}

{{- /* How to scrape, for a PodMonitor or a ServiceMonitor. */}}
{{- define "portway.endpoint" -}}
- port: metrics
  {{- with .interval }}
  interval: {{ . }}
  {{- end }}
  relabelings:
    - targetLabel: job
      replacement: {{ .job }}
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: node
{{- end }}

{{- /* Whether kube-proxy's rules are removed. */}}
{{- define "portway.takeover" -}}
{{- if and .Values.takeover (not .Values.serviceProxyName) }}true{{ end }}
{{- end }}

{{- /* Without a way to the API server that needs no Service a node could not start. */}}
{{- define "portway.validate" -}}
{{- $ways := compact (list .Values.k8sServiceHost .Values.kubeconfig .Values.existingConfigMap) }}
{{- if and (ne (len $ways) 1) (not .Values.cleanup) }}
{{- fail "set exactly one of k8sServiceHost, kubeconfig and existingConfigMap: Portway needs a way to the API server that does not need the kubernetes Service, which Portway itself makes work" }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail "set one of podMonitor.enabled and serviceMonitor.enabled: with both, everything is counted twice" }}
{{- end }}
{{- end }}
