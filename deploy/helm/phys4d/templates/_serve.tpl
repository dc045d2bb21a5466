{{- /* Seconds that calls under way get to end, by the rule of reward_service.app.build: they may wait for scorers
  that start, and a rollout that is scored has its whole time. */}}
{{- define "phys4d.drainSeconds" -}}
{{- maxf .Values.config.drain_s (dig "limits" "max_scoring_s" 120 .Values.config) }}
{{- end }}

{{- /* What Ray Serve runs; `make deploy-check` starts exactly this. */}}
{{- define "phys4d.serveConfig" -}}
{{- $rewards := include "phys4d.targets" . | fromJson }}
{{- $config := .Values.config }}
{{- /* toJson prints every number in full: 2000000 of a values file is otherwise 2e+06. */}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
grpc_options:
  port: 9000
  grpc_servicer_functions:
    - phys4d.reward.v1.reward_pb2_grpc.add_RewardServiceServicer_to_server
    - grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server
  enable_reflection: false
logging_config:
  encoding: JSON
  log_level: WARNING
  enable_access_log: false
applications:
  - name: phys4d
    route_prefix: /
    import_path: reward_service.cluster:app
    args:
      host: 0.0.0.0
      token_file: /etc/phys4d/token/token
      metrics_port: 9464
      log_format: json
      log_level: {{ $config.log_level }}
      num_replicas: {{ toJson .Values.scorers.minReplicas }}
      num_threads: {{ toJson $config.num_threads }}
      max_queued: {{ toJson $config.max_queued }}
      cache_size: {{ toJson $config.cache_size }}
      drain_s: {{ toJson $config.drain_s }}
      scene_chamfer: {{ and .Values.sceneChamfer (not $rewards.weighted) }}
      rewards: {{ $rewards.targets | toJson }}
      {{- with $config.chamfer }}
      chamfer: {{ toJson . }}
      {{- end }}
      {{- with $config.surface }}
      surface: {{ toJson . }}
      {{- end }}
      {{- with $config.limits }}
      limits: {{ toJson . }}
      {{- end }}
    deployments:
      - name: Ingress
        num_replicas: auto
        autoscaling_config:
          min_replicas: {{ toJson .Values.ingress.minReplicas }}
          max_replicas: {{ toJson .Values.ingress.maxReplicas }}
          target_ongoing_requests: 8
        # Calls beyond limits.max_calls reach the ingress to be refused; health checks pass beside them.
        max_ongoing_requests: {{ add 16 (mul 2 (int (dig "limits" "max_calls" 64 $config))) }}
        max_queued_requests: 256
        # Metrics have one port on each pod.
        max_replicas_per_node: 1
        graceful_shutdown_timeout_s: {{ include "phys4d.drainSeconds" . }}
        ray_actor_options:
          num_cpus: {{ if gt (int .Values.ingress.cpu) 1 }}{{ sub (int .Values.ingress.cpu) 1 }}{{ else }}0.5{{ end }}
          resources: {phys4d_ingress: 1}
      - name: Scorer
        num_replicas: auto
        autoscaling_config:
          min_replicas: {{ toJson .Values.scorers.minReplicas }}
          max_replicas: {{ toJson .Values.scorers.maxReplicas }}
          target_ongoing_requests: {{ toJson .Values.scorers.targetOngoing }}
          upscale_delay_s: {{ toJson .Values.scorers.upscaleDelaySeconds }}
          downscale_delay_s: {{ toJson .Values.scorers.downscaleDelaySeconds }}
        # One is scored while the next is on its way.
        max_ongoing_requests: 2
        max_queued_requests: {{ toJson $config.max_queued }}
        graceful_shutdown_timeout_s: {{ include "phys4d.drainSeconds" . }}
        ray_actor_options:
          num_cpus: {{ toJson .Values.scorers.replicaCpus }}
          num_gpus: {{ include "phys4d.replicaGpus" . }}
          resources: {phys4d_scorer: 1}
{{- end }}
