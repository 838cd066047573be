{{/* The pod of a worker: a dict of the root, `class` (its values over those of workerDefaults) and `restartPolicy`. */}}
{{- define "sglp.workerPod" -}}
{{- $root := .root }}
{{- $class := .class }}
metadata:
  labels:
    {{- include "sglp.labels" $root | nindent 4 }}
    app.kubernetes.io/component: worker
    sglp/gpu-class: {{ $class.gpuClass }}
  annotations:
    # Those who make a cluster smaller leave the nodes of workers alone.
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    karpenter.sh/do-not-disrupt: "true"
    {{- range $name, $value := $root.Values.podAnnotations }}
    {{ $name }}: {{ $value | quote }}
    {{- end }}
spec:
  {{- include "sglp.pod" $root | nindent 2 }}
  restartPolicy: {{ .restartPolicy }}
  # A worker gives its job back within cancel_grace_seconds; then it writes that down.
  terminationGracePeriodSeconds: {{ add (int (default 10 $root.Values.settings.cancel_grace_seconds)) 30 }}
  # The pod's first process adopts what a killed job's process leaves behind.
  shareProcessNamespace: true
  {{- with $class.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $class.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  nodeSelector: {{ toJson $class.nodeSelector }}
  tolerations: {{ toJson $class.tolerations }}
  containers:
    - name: worker
      image: {{ printf "%s:%s" (default $root.Values.image.worker $class.image) (include "sglp.tag" $root) | quote }}
      {{- include "sglp.container" $root | nindent 6 }}
      env:
        - {name: SGLP_GPU_CLASS, value: {{ $class.gpuClass | quote }}}
        {{- if $class.keda.enabled }}
        - {name: SGLP_WORKER_IDLE_SECONDS, value: {{ int $class.keda.idleSeconds | quote }}}
        - {name: SGLP_WORKER_MAX_JOBS, value: {{ int $class.keda.maxJobs | quote }}}
        {{- end }}
        {{- with $root.Values.hubEndpoint }}
        - {name: HF_ENDPOINT, value: {{ quote . }}}
        {{- end }}
        {{- include "sglp.settings" $root | nindent 8 }}
        {{- include "sglp.secrets" (list $root "database" "broker" "artifactOptions" "sources" "outputDestinations") | nindent 8 }}
      resources: {{ toJson $class.resources }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: work, mountPath: /var/lib/sglp/work}
        - {name: cache, mountPath: /var/lib/sglp/cache}
        {{- if $root.Values.models.claim }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
    - {name: work, emptyDir: {sizeLimit: {{ $class.work.size }}}}
    - name: cache
      {{- if $class.cache.claim }}
      persistentVolumeClaim: {claimName: {{ $class.cache.claim }}}
      {{- else if $class.cache.storageClass }}
      ephemeral:
        volumeClaimTemplate:
          spec:
            accessModes: [ReadWriteOnce]
            storageClassName: {{ $class.cache.storageClass }}
            resources: {requests: {storage: {{ $class.cache.size }}}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $class.cache.size }}}
      {{- end }}
    {{- if $root.Values.models.claim }}
    - name: models
      persistentVolumeClaim: {claimName: {{ $root.Values.models.claim }}, readOnly: true}
    {{- end }}
{{- end }}
