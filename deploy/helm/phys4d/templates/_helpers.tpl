{{- /* 33 characters, so that the longest name of a RayJob, -data-HASH behind it, has the 47 that KubeRay takes. */}}
{{- define "phys4d.fullname" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" .Release.Name) }}{{ fail (printf "the release is named %s, but KubeRay and services take letters, digits and - after a letter only; choose another name" .Release.Name) }}{{ end }}
{{- if contains "phys4d" .Release.Name }}{{ .Release.Name | trunc 33 | trimSuffix "-" }}{{ else }}{{ printf "%s-phys4d" .Release.Name | trunc 33 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "phys4d.selector" -}}
app.kubernetes.io/name: phys4d
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "phys4d.labels" -}}
{{ include "phys4d.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "phys4d.registry" -}}
{{- required "images.registry is where reward.Dockerfile and train.Dockerfile were pushed; set it" .Values.images.registry | trimSuffix "/" }}
{{- end }}

{{- /* NAME:TAG[@DIGEST] of an image. Takes root, which (its key below `images`), name, tag. */}}
{{- define "phys4d.image" -}}
{{- $digest := (index .root.Values.images .which).digest }}
{{- if and .root.Values.images.requireDigests (not $digest) }}{{ fail (printf "images.requireDigests is true, but images.%s.digest is empty; set it to what `docker push` printed for %s:%s" .which .name .tag) }}{{ end }}
{{- printf "%s:%s" .name .tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "phys4d.rewardImage" -}}
{{- $tag := ternary (printf "%s-gpu" .Chart.AppVersion) .Chart.AppVersion (gt (int .Values.scorers.gpus) 0) }}
{{- include "phys4d.ownImage" (dict "root" . "which" "reward" "tag" $tag) }}
{{- end }}

{{- /* An image of deploy/, in the registry. Takes root, which, tag (where the values name none). */}}
{{- define "phys4d.ownImage" -}}
{{- $image := index .root.Values.images .which }}
{{- include "phys4d.image" (dict "root" .root "which" .which "name" (printf "%s/%s" (include "phys4d.registry" .root) $image.name) "tag" ($image.tag | default .tag)) }}
{{- end }}

{{- define "phys4d.tokenSecret" -}}
{{- .Values.token.existingSecret | default (printf "%s-token" (include "phys4d.fullname" .)) }}
{{- end }}

{{- define "phys4d.tlsSecret" -}}
{{- .Values.gateway.tls.existingSecret | default (printf "%s-tls" (include "phys4d.fullname" .)) }}
{{- end }}

{{- define "phys4d.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "phys4d.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "phys4d.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The reward as the service's configuration names it: package.module:Class(option=literal). */}}
{{- define "phys4d.target" -}}
{{- if .endpoint -}}
reward_service.remote:RemoteReward(name={{ .name | quote }}, endpoint={{ .endpoint | quote }}
{{- range $key, $value := .options }}, {{ $key }}={{ include "phys4d.literal" $value }}{{ end }})
{{- else -}}
{{ .importPath }}({{ $comma := "" }}{{ range $key, $value := .options }}{{ $comma }}{{ $key }}={{ include "phys4d.literal" $value }}{{ $comma = ", " }}{{ end }})
{{- end }}
{{- end }}

{{- /* A Python literal. */}}
{{- define "phys4d.literal" -}}
{{- if kindIs "bool" . }}{{ ternary "True" "False" . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{- define "phys4d.literals" -}}
{{- range $key, $value := . }}{{ printf "%q: %s, " $key (include "phys4d.literal" $value) }}{{ end }}
{{- end }}

{{- define "phys4d.targets" -}}
{{- $weighted := false }}{{ $targets := list }}{{ $parts := list }}
{{- $names := list }}
{{- if not (or .Values.sceneChamfer .Values.rewards) }}{{ fail "sceneChamfer is false and rewards is empty, so there is nothing to score with; name a reward" }}{{ end }}
{{- range .Values.rewards }}
{{- if has .name $names }}{{ fail (printf "rewards: two are named %s; give each its own name" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- if hasKey . "weight" }}{{ $weighted = true }}{{ end }}
{{- end }}
{{- if $weighted }}
{{- if .Values.sceneChamfer }}{{ $parts = append $parts (printf "(%q, %q, %s)" "scene_chamfer" "scene_chamfer" (toJson .Values.sceneChamferWeight)) }}{{ end }}
{{- if and .Values.sceneChamfer .Values.surfaceChamferWeight }}{{ $parts = append $parts (printf "(%q, %q, %s)" "surface_chamfer" "surface_chamfer" (toJson .Values.surfaceChamferWeight)) }}{{ end }}
{{- range .Values.rewards }}
{{- if hasKey . "weight" }}{{ $parts = append $parts (printf "(%q, %q, %s)" .name (include "phys4d.target" .) (toJson .weight)) }}{{ else }}
{{- fail (printf "rewards: %s has no weight while another one has; give each a weight or none" .name) }}{{ end }}
{{- end }}
{{- $chamfer := include "phys4d.literals" .Values.config.chamfer }}
{{- $surface := include "phys4d.literals" .Values.config.surface }}
{{- $targets = append $targets (printf "reward_service.combined:WeightedSum(parts=[%s], chamfer={%s}, surface={%s})" (join ", " $parts) $chamfer $surface) }}
{{- else }}
{{- range .Values.rewards }}
{{- if .endpoint }}{{ $targets = append $targets (include "phys4d.target" .) }}{{ else }}
{{- $targets = append $targets (printf "reward_service.combined:NamedReward(name=%q, target=%q)" .name (include "phys4d.target" .)) }}{{ end }}
{{- end }}
{{- end }}
{{- dict "targets" $targets "weighted" $weighted | toJson }}
{{- end }}

{{- /* GPUs of one scorer replica: the sum over its rewards, or scorers.replicaGpus where it is more. */}}
{{- define "phys4d.replicaGpus" -}}
{{- $sum := 0.0 }}
{{- range .Values.rewards }}{{ $sum = addf $sum (.gpus | default 0.0) }}{{ end }}
{{- maxf $sum .Values.scorers.replicaGpus }}
{{- end }}

{{- /* Replicas that one scorer pod holds, after refusing what can never be scheduled. */}}
{{- define "phys4d.replicasPerPod" -}}
{{- $gpus := include "phys4d.replicaGpus" . | float64 }}
{{- $perPod := floor (divf (float64 .Values.scorers.cpu) (float64 .Values.scorers.replicaCpus)) | int }}
{{- if gt $gpus 0.0 }}
{{- if and (gt $gpus 1.0) (ne $gpus (floor $gpus)) }}{{ fail (printf "one scorer replica would take %v GPUs; Ray grants fractions below 1 or whole ones" $gpus) }}{{ end }}
{{- if eq (int .Values.scorers.gpus) 0 }}{{ fail (printf "scorer replicas take %v GPUs, but scorers.gpus is 0; raise it, or take gpus from rewards and scorers.replicaGpus" $gpus) }}{{ end }}
{{- $perPod = min $perPod (floor (divf (float64 .Values.scorers.gpus) $gpus) | int) }}
{{- end }}
{{- if lt (int $perPod) 1 }}{{ fail (printf "no scorer replica (%v CPUs, %v GPUs) fits into a pod of %v CPUs and %v GPUs" .Values.scorers.replicaCpus $gpus .Values.scorers.cpu .Values.scorers.gpus) }}{{ end }}
{{- $room := mul $perPod .Values.scorers.maxPods }}
{{- if gt (int .Values.scorers.maxReplicas) (int $room) }}{{ fail (printf "scorers.maxReplicas is %v, but %v pods hold %v (%v each); raise maxPods or lower it" .Values.scorers.maxReplicas .Values.scorers.maxPods $room $perPod) }}{{ end }}
{{- $perPod }}
{{- end }}
