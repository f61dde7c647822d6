{{- /* Ends the rendering with a sentence for each value that must not be. What the gateway would refuse at its start is refused here. */ -}}
{{- define "llm-proxy.validate" -}}
{{- $faults := concat (include "llm-proxy.settingFaults" . | fromJsonArray) (include "llm-proxy.alwaysFaults" . | fromJsonArray) -}}
{{- if include "llm-proxy.isProduction" . -}}
{{- $faults = concat $faults (include "llm-proxy.productionFaults" . | fromJsonArray) -}}
{{- end -}}
{{- if $faults -}}
{{- printf "\n  - %s\n" (join "\n  - " $faults) | fail -}}
{{- end -}}
{{- end -}}

{{- define "llm-proxy.settingFaults" -}}
{{- $faults := list -}}
{{- $known := .Files.Get "files/settings.json" | fromJson -}}
{{- $elsewhere := dict "LLM_PROXY__ENVIRONMENT" "it is production in every Pod" "LLM_PROXY__HOST" "the Pod's own address" "LLM_PROXY__PORT" "it is 7007; gateway.service.port is the Service's" "LLM_PROXY__PUBLIC_BIND_OK" "it is true: TLS ends before the Pod" "LLM_PROXY__WORKERS" "set gateway.workers" "LLM_PROXY__LITELLM_PROXY_URL" "it is the sidecars' Service" "LLM_PROXY__DRAIN_DELAY_S" "set gateway.drain.delaySeconds" "LLM_PROXY__DRAIN_TIMEOUT_S" "set gateway.drain.timeoutSeconds" "LLM_PROXY__SPOOL_DIR" "it is the volume" "LLM_PROXY__SPOOL_MAX_BYTES" "set gateway.spool.recordsMiB" "LLM_PROXY__UPLOADS_MAX_BYTES" "set gateway.spool.uploadsMiB" "LLM_PROXY__CA_FILE" "set caBundle" "LLM_PROXY__CONSOLE_HOST" "it is the Pod's" "LLM_PROXY__CONSOLE_PORT" "it is 7070; console.service.port is the Service's" "LLM_PROXY__CONSOLE_URL" "set console.url" "LLM_PROXY__CONSOLE_GATEWAY_URL" "it is the gateway's Service" "LLM_PROXY__CONSOLE_ENABLED" "set console.enabled" -}}
{{- range $name, $value := .Values.settings -}}
{{- if hasKey $elsewhere $name -}}
{{- $faults = append $faults (printf "settings.%s is set by the chart: %s." $name (get $elsewhere $name)) -}}
{{- else if not (hasKey $known $name) -}}
{{- $faults = append $faults (printf "settings.%s is no setting; docs/configuration.md lists them." $name) -}}
{{- else if eq (get $known $name) "secret" -}}
{{- $faults = append $faults (printf "settings.%s is a secret: it belongs into the Secret of secrets.gateway, not into a Pod's variables." $name) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "llm-proxy.alwaysFaults" -}}
{{- $faults := list -}}
{{- range $one := list "gateway" "sidecar" -}}
{{- $secret := index $.Values.secrets $one -}}
{{- if and $secret.existingSecret $secret.values -}}
{{- $faults = append $faults (printf "secrets.%s has both existingSecret and values: the values would be in no Pod." $one) -}}
{{- end -}}
{{- if and $.Values.secrets.external.enabled (or $secret.existingSecret $secret.values) -}}
{{- $faults = append $faults (printf "secrets.external is enabled and secrets.%s is set: one of them makes the Secret." $one) -}}
{{- end -}}
{{- if and $.Values.secrets.external.enabled (not (index $.Values.secrets.external $one).key) -}}
{{- $faults = append $faults (printf "secrets.external.%s.key is empty: it names the remote secret." $one) -}}
{{- end -}}
{{- with (index $.Values $one).autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) -}}
{{- $faults = append $faults (printf "%s.autoscaling.maxReplicas is below minReplicas." $one) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.secrets.external -}}
{{- if and .enabled (not .store.name) -}}
{{- $faults = append $faults "secrets.external.store.name is empty: it names the SecretStore." -}}
{{- end -}}
{{- end -}}
{{- if and (or (include "llm-proxy.ownPostgres" .) (include "llm-proxy.ownValkey" .)) (or (not (include "llm-proxy.makesSecret" (list . "gateway"))) (not (include "llm-proxy.makesSecret" (list . "sidecar")))) -}}
{{- $faults = append $faults "trialStores make their own passwords and addresses, and a Secret of yours holds others: set trialStores.postgres.enabled and trialStores.valkey.enabled to false, or leave the Secrets to the chart." -}}
{{- end -}}
{{- range $variable, $value := .Values.sidecar.env -}}
{{- if regexMatch "(_KEY|_KEY_ID|_TOKEN|_SECRET|_PASSWORD|_WEBHOOKS|DATABASE_URL|REDIS_URL)$" $variable -}}
{{- $faults = append $faults (printf "sidecar.env.%s is a secret: it belongs into the Secret of secrets.sidecar, not into a Pod's variables." $variable) -}}
{{- end -}}
{{- if has $variable (list "KEYS_FOLDER" "TMPDIR" "HOME" "LLM_PROXY_SIDECAR_LEAVE_S" "LLM_PROXY_SIDECAR_DRAIN_S" "LLM_PROXY_SIDECAR_MAX_MIB" "LLM_PROXY__CA_FILE") -}}
{{- $faults = append $faults (printf "sidecar.env.%s is set by the chart." $variable) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.sidecar.config .Values.sidecar.existingConfigMap -}}
{{- $faults = append $faults "sidecar.config and sidecar.existingConfigMap are both set: one of them is the configuration." -}}
{{- end -}}
{{- range $path := .Values.publicPaths -}}
{{- range $hidden := list "/admin" "/metrics" "/internal" -}}
{{- if or (eq $path "/") (eq $path $hidden) (hasPrefix (printf "%s/" $hidden) $path) -}}
{{- $faults = append $faults (printf "publicPaths has %s: with it %s could be called from outside." $path $hidden) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- $faults = append $faults "ingress.host is empty: it would answer for every name." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (or (not .Values.httpRoute.parentRefs) (not .Values.httpRoute.hostnames)) -}}
{{- $faults = append $faults "httpRoute needs parentRefs, the Gateway, and hostnames." -}}
{{- end -}}
{{- toJson (concat $faults (include "llm-proxy.consoleFaults" . | fromJsonArray)) -}}
{{- end -}}

{{- define "llm-proxy.consoleFaults" -}}
{{- $faults := list -}}
{{- $settings := .Values.settings -}}
{{- $console := .Values.console -}}
{{- $local := "^http://(localhost|127\\.0\\.0\\.1|\\[::1\\])(:|/|$)" -}}
{{- $isLocal := regexMatch $local $console.url -}}
{{- if $console.enabled -}}
{{- if not $console.url -}}
{{- $faults = append $faults "console.url is empty: the console answers to no other host name than that of the address browsers use." -}}
{{- else if and (hasPrefix "http:" $console.url) (not $isLocal) -}}
{{- $faults = append $faults "console.url is not https: passwords and cookies would be readable on the way." -}}
{{- end -}}
{{- $issuer := get $settings "LLM_PROXY__CONSOLE_OIDC_ISSUER" | default "" -}}
{{- if and $issuer (or (not (get $settings "LLM_PROXY__CONSOLE_OIDC_CLIENT_ID")) (not (get $settings "LLM_PROXY__CONSOLE_OIDC_ROLES"))) -}}
{{- $faults = append $faults "settings.LLM_PROXY__CONSOLE_OIDC_ISSUER needs LLM_PROXY__CONSOLE_OIDC_CLIENT_ID and LLM_PROXY__CONSOLE_OIDC_ROLES." -}}
{{- end -}}
{{- if and (hasPrefix "http:" $issuer) (not (regexMatch $local $issuer)) -}}
{{- $faults = append $faults "settings.LLM_PROXY__CONSOLE_OIDC_ISSUER is not https: anyone on the way could sign in as anyone." -}}
{{- end -}}
{{- if and $console.ingress.enabled $isLocal -}}
{{- $faults = append $faults "console.ingress is enabled and console.url is this machine's: browsers would be refused." -}}
{{- end -}}
{{- if and $console.ingress.enabled (not $console.ingress.tlsSecretName) (not .Values.ingress.tlsEndsBefore) -}}
{{- $faults = append $faults "console.ingress has no tlsSecretName: passwords would be readable on the way. If TLS ends at a load balancer before it, set ingress.tlsEndsBefore to true." -}}
{{- end -}}
{{- if and $console.httpRoute.enabled (not $console.httpRoute.parentRefs) -}}
{{- $faults = append $faults "console.httpRoute needs parentRefs, the Gateway." -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "llm-proxy.productionFaults" -}}
{{- $faults := list -}}
{{- if or (include "llm-proxy.ownPostgres" .) (include "llm-proxy.ownValkey" .) -}}
{{- $faults = append $faults "trialStores are for trials: one Pod each, no backup, no failover. Name stores of your own in the Secrets." -}}
{{- end -}}
{{- range $one := list "gateway" "sidecar" -}}
{{- if include "llm-proxy.makesSecret" (list $ $one) -}}
{{- $faults = append $faults (printf "secrets.%s.existingSecret is empty: in production secrets come by reference (or secrets.external), because values stay in the release's history." $one) -}}
{{- end -}}
{{- end -}}
{{- range $name, $image := .Values.images -}}
{{- if and (eq $image.tag "latest") (not $image.digest) -}}
{{- $faults = append $faults (printf "images.%s.tag is latest: nobody could say what runs, nor go back. Name a version, or a digest." $name) -}}
{{- end -}}
{{- end -}}
{{- if not (or .Values.networkPolicy.enabled .Values.networkPolicy.acceptNone) -}}
{{- $faults = append $faults "networkPolicy.enabled is false: every Pod could reach the sidecars, and they the cloud's metadata. If something else keeps them apart, set networkPolicy.acceptNone to true." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.tlsSecretName) (not .Values.ingress.tlsEndsBefore) -}}
{{- $faults = append $faults "ingress.tlsSecretName is empty: keys and prompts would be readable on the way. If TLS ends at a load balancer before it, set ingress.tlsEndsBefore to true." -}}
{{- end -}}
{{- if and (ne .Values.gateway.service.type "ClusterIP") (not .Values.gateway.service.plaintextOk) -}}
{{- $faults = append $faults (printf "gateway.service.type is %s: keys and prompts would be readable on the way. If TLS ends at that load balancer, set gateway.service.plaintextOk to true." .Values.gateway.service.type) -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}
