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
{{- .Values.existingConfigMap | default (printf "%s-%s" (include "portway.name" .) (include "portway.config" . | sha256sum | trunc 10)) }}
{{- end }}

{{- /* Folder and file of the configuration in the container. */}}
{{- define "portway.configFolder" -}}
{{- ternary (.Values.existingConfigMapPath | default "/var/lib/kube-proxy") "/var/lib/kube-proxy" (ne .Values.existingConfigMap "") }}
{{- end }}
{{- define "portway.configFile" -}}
{{- $key := ternary (.Values.existingConfigMapKey | default "config.conf") "config.conf" (ne .Values.existingConfigMap "") }}
{{- printf "%s/%s" (include "portway.configFolder" .) $key }}
{{- end }}

{{- /* Nothing while serving; `now` or `afterKubeProxy`. */}}
{{- define "portway.cleanup" -}}
{{- if .Values.cleanup }}{{ ternary "afterKubeProxy" "now" (eq (toString .Values.cleanup) "afterKubeProxy") }}{{ end }}
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
{{ include "portway.sourceArgs" . }}
{{- if .Values.sysctls }}
- --sysctl-net=/host/proc/sys/net
{{- end }}
{{- if include "portway.takeover" . }}
- --takeover
{{- end }}
{{- with .Values.directReturnDevices }}
- --direct-return-devices={{ join "," . }}
{{- end }}
{{- with .Values.fastPathDevices }}
- --fast-path-devices={{ join "," . }}
{{- end }}
{{- if .Values.answerPings }}
- --answer-pings
{{- end }}
{{- with .Values.resetConnectionsFor }}
- --reset-connections-for={{ . }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Where Services come from, and which. */}}
{{- define "portway.sourceArgs" -}}
- --config={{ include "portway.configFile" . }}
- --hostname-override=$(NODE_NAME)
{{- with .Values.serviceProxyName }}
- --service-proxy-name={{ . }}
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
  mountPath: {{ include "portway.configFolder" . }}
  readOnly: true
{{- with .Values.kubeconfig }}
- name: kubeconfig
  mountPath: {{ . }}
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
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
{{- if not .Values.image.repository }}
{{- fail (print "image.repository is empty, as no image of Portway is published. Build one: docker build -t NAME:" .Chart.AppVersion " . "
  "Get it onto the nodes: docker push NAME:" .Chart.AppVersion ", where NAME begins with a registry the nodes can pull from; "
  "or on each node: docker save NAME:" .Chart.AppVersion " | ctr -n k8s.io images import - ; or with kind: kind load docker-image NAME:" .Chart.AppVersion " . "
  "Then set image.repository=NAME; docs/install.md has more") }}
{{- end }}
{{- if and (ne (len $ways) 1) (ne (include "portway.cleanup" .) "now") }}
{{- fail "set exactly one of k8sServiceHost, kubeconfig and existingConfigMap: Portway needs a way to the API server that does not need the kubernetes Service, which Portway itself makes work" }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail "set one of podMonitor.enabled and serviceMonitor.enabled: with both, everything is counted twice" }}
{{- end }}
{{- $rolling := (.Values.updateStrategy | default dict).rollingUpdate | default dict }}
{{- if not (has (toString ($rolling.maxSurge | default 0)) (list "0" "0%")) }}
{{- fail "updateStrategy.rollingUpdate.maxSurge must be 0: on the node's network the probes of a new pod would be answered by the old one, so a version that does not work would go to all nodes. Rules stay in force while a pod is replaced; use maxUnavailable" }}
{{- end }}
{{- end }}
