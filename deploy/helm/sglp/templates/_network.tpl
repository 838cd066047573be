{{/* An egress rule to a server: a dict `to`, `port`. */}}
{{- define "sglp.egress" -}}
- {{ if .to }}to: {{ toJson .to }}
  {{ end }}ports: [{protocol: TCP, port: {{ .port }}}]
{{- end }}

{{/* What every pod may reach beside its servers. */}}
{{- define "sglp.egressOfAll" -}}
- to: {{ toJson .Values.networkPolicy.dns }}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- range .Values.networkPolicy.extraEgress }}
- {{ toJson . }}
{{- end }}
{{- end }}

{{- define "sglp.egressOutside" -}}
- to:
    - ipBlock: {cidr: 0.0.0.0/0, except: {{ toJson .Values.networkPolicy.internet.except }}}
    - ipBlock: {cidr: "::/0", except: {{ toJson .Values.networkPolicy.internet.exceptIPv6 }}}
  ports:
    {{- range .Values.networkPolicy.internet.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
