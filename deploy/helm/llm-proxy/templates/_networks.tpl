{{- /* The metadata services of clouds, as llm_proxy/sidecar/without_metadata.py lists them, and link-local addresses. */ -}}
{{- define "llm-proxy.metadataV4" -}}
["169.254.0.0/16", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"]
{{- end -}}
{{- define "llm-proxy.metadataV6" -}}
["fe80::/10", "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"]
{{- end -}}

{{- /* Addresses that are not on the internet, the cluster's own among them; they hold every metadata service but one. */ -}}
{{- define "llm-proxy.privateV4" -}}
["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3", "168.63.129.16/32"]
{{- end -}}
{{- define "llm-proxy.privateV6" -}}
["::/127", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "fc00::/7", "fe80::/10", "ff00::/8"]
{{- end -}}

{{- define "llm-proxy.toInternet" -}}
{{- if .Values.networkPolicy.internetPorts -}}
- to:
    - ipBlock: {cidr: 0.0.0.0/0, except: {{ include "llm-proxy.privateV4" . }}}
    - ipBlock: {cidr: "::/0", except: {{ include "llm-proxy.privateV6" . }}}
  ports:
    {{- range .Values.networkPolicy.internetPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}
{{- end -}}

{{- define "llm-proxy.toDns" -}}
{{- $dns := .Values.networkPolicy.dns -}}
- to:
    - namespaceSelector:
        matchLabels: {{- toYaml $dns.namespaceLabels | nindent 10 }}
      podSelector:
        matchLabels: {{- toYaml $dns.podLabels | nindent 10 }}
    {{- range $dns.cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end -}}

{{- define "llm-proxy.toComponent" -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "llm-proxy.selector" (list (index . 0) (index . 1)) | nindent 10 }}
  ports: [{protocol: TCP, port: {{ index . 2 }}}]
{{- end -}}

{{- /* The stores that a Pod uses: (list $ (list "postgres" "limits" "cache")). */ -}}
{{- define "llm-proxy.toStores" -}}
{{- $ := index . 0 -}}
{{- $outside := list -}}
{{- range $store := index . 1 -}}
{{- if eq $store "postgres" -}}
{{- if include "llm-proxy.ownPostgres" $ }}
{{ include "llm-proxy.toComponent" (list $ $store 5432) }}
{{- else -}}
{{- $outside = append $outside $store -}}
{{- end -}}
{{- else if include "llm-proxy.ownValkey" $ }}
{{ include "llm-proxy.toComponent" (list $ $store 6379) }}
{{- else -}}
{{- $outside = append $outside $store -}}
{{- end -}}
{{- end -}}
{{- $stores := $.Values.networkPolicy.stores -}}
{{- if and $outside $stores.cidrs $stores.ports }}
- to:
    {{- range $stores.cidrs }}
    {{- if eq . "0.0.0.0/0" }}
    - ipBlock: {cidr: {{ . }}, except: {{ include "llm-proxy.metadataV4" $ }}}
    {{- else if eq . "::/0" }}
    - ipBlock: {cidr: {{ . | quote }}, except: {{ include "llm-proxy.metadataV6" $ }}}
    {{- else }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
    {{- end }}
  ports:
    {{- range $stores.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end -}}
