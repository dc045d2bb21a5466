{{- /* Environment of every Ray container. The data path must be the same on all of them. */}}
{{- define "phys4d.rayEnv" -}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: {{ ternary "1" "0" .root.Values.ray.haproxy | quote }}}
{{- if .root.Values.ray.haproxy }}
# By HTTP/2's own window of 64 KiB a stream would wait for HAProxy thousands of times for each rollout of 50 MB,
# and by buffers of 16 KiB HAProxy would spend three times the CPU time on it.
- {name: RAY_SERVE_HAPROXY_H2_FE_INITIAL_WINDOW_SIZE, value: "1048576"}
- {name: RAY_SERVE_HAPROXY_TUNE_BUFSIZE, value: "65536"}
{{- end }}
{{- if ne .root.Values.ray.auth "token" }}
# This Ray asks for a token unless it is told not to.
- {name: RAY_AUTH_MODE, value: disabled}
{{- end }}
# Streams get flow control only where handlers run in the loop that reads them.
- {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
- {name: RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S, value: "1.0"}
- {name: HOME, value: /tmp}
- {name: NUMBA_CACHE_DIR, value: /tmp/numba}
- {name: OMP_NUM_THREADS, value: {{ .root.Values.config.num_threads | quote }}}
- {name: OPENBLAS_NUM_THREADS, value: {{ .root.Values.config.num_threads | quote }}}
- {name: NUMBA_NUM_THREADS, value: {{ .root.Values.config.num_threads | quote }}}
# 50 MB messages would otherwise be mapped and unmapped one by one.
- {name: MALLOC_MMAP_THRESHOLD_, value: "1073741824"}
- {name: MALLOC_TRIM_THRESHOLD_, value: "4294967296"}
- {name: MALLOC_TOP_PAD_, value: "67108864"}
{{- end }}

{{- /* Whether the volume of the data can be mounted on one node only, which then data job and trainer share. */}}
{{- define "phys4d.oneNode" -}}
{{- $data := .Values.data }}
{{- if and $data.enabled .Values.trainer.enabled (not (has "ReadWriteMany" $data.volume.accessModes)) }}
{{- if has "ReadWriteOncePod" $data.volume.accessModes }}{{ fail "data.volume.accessModes is ReadWriteOncePod, but the data job and the trainer mount it at once; give ReadWriteMany" }}{{ end }}
{{- if ne (toJson $data.nodeSelector) (toJson .Values.trainer.nodeSelector) }}{{ fail (printf "data.volume.accessModes is ReadWriteOnce, so the data job and the trainer need the same node, but data.nodeSelector is %s and trainer.nodeSelector is %s; give ReadWriteMany, or the same selector" (toJson $data.nodeSelector) (toJson .Values.trainer.nodeSelector)) }}{{ end -}}
true
{{- end }}
{{- end }}

{{- define "phys4d.dataLabel" -}}
{{- if include "phys4d.oneNode" . }}
phys4d.dev/volume: data
{{- end }}
{{- end }}

{{- /* The first of the pods that hold the volume goes anywhere, the others follow it. */}}
{{- define "phys4d.dataAffinity" -}}
{{- if include "phys4d.oneNode" . }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/instance: {{ .Release.Name }}
            phys4d.dev/volume: data
{{- end }}
{{- end }}

{{- /* A pod of a Ray cluster. Takes root, component, container, group (its values), serves, gpus, drain, image, mounts, holdsData. */}}
{{- define "phys4d.rayPod" -}}
metadata:
  labels:
    {{- include "phys4d.labels" (dict "root" .root "component" .component) | nindent 4 }}
    phys4d.dev/cluster: {{ .cluster }}
    {{- if .holdsData }}
    {{- include "phys4d.dataLabel" .root | nindent 4 }}
    {{- end }}
  annotations:
    phys4d.dev/token-revision: {{ .root.Values.token.revision | quote }}
spec:
  {{- if ne .container "ray-head" }}
  # The head's autoscaler talks to Kubernetes; workers have no reason to.
  automountServiceAccountToken: false
  {{- end }}
  securityContext:
    {{- include "phys4d.podSecurity" .root | nindent 4 }}
  {{- include "phys4d.pullSecrets" .root | nindent 2 }}
  terminationGracePeriodSeconds: {{ .grace }}
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .holdsData }}
  {{- include "phys4d.dataAffinity" .root | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .container }}
      image: {{ .image }}
      imagePullPolicy: {{ .root.Values.images.pullPolicy }}
      securityContext:
        {{- include "phys4d.containerSecurity" .root | nindent 8 }}
      env:
        {{- include "phys4d.rayEnv" . | nindent 8 }}
      ports:
        {{- if eq .container "ray-head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
        {{- if .serves }}
        - {name: serve, containerPort: 8000}
        - {name: serve-grpc, containerPort: 9000}
        {{- end }}
        {{- if eq .component "ingress" }}
        - {name: reward-metrics, containerPort: 9464}
        {{- end }}
        - {name: metrics, containerPort: 8080}
      resources:
        requests:
          cpu: {{ .group.cpu | quote }}
          memory: {{ .group.memory }}
        limits:
          cpu: {{ .group.cpu | quote }}
          memory: {{ .group.memory }}
          {{- if gt (int .gpus) 0 }}
          {{ .group.gpuResource }}: {{ .gpus | quote }}
          {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    # Ray hands rollouts from process to process here.
    - name: shm
      emptyDir:
        medium: Memory
        sizeLimit: {{ .objectStore }}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "phys4d.renderCommands" -}}
set -e
{{- $data := .Values.data }}
{{- range $data.splits }}; python -m phys4d.scenes.render --ray-address auto --out /data/{{ .out }} --split {{ .name }} --num-samples {{ int .numSamples }} --seed-start {{ int64 .seedStart }}{{ range concat $data.args (.args | default list) }} {{ . }}{{ end }}{{ end }}
{{- end }}
