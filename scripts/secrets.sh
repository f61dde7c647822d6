#!/bin/sh
# Creates the secrets missing in .env, for docker compose: secrets.sh [FILE]. Existing lines stay.
set -eu
file=${1:-.env}
umask 077
touch "$file"
chmod 600 "$file"

draw() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

missing() { ! grep -q "^$1=." "$file"; }

# Without a line feed at the end, the first new line would join the last one.
if [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
for name in LLM_PROXY__INTERNAL_API_KEY LLM_PROXY__ADMIN_KEY POSTGRES_PASSWORD SIDECAR_DB_PASSWORD REDIS_PASSWORD; do
    if missing "$name"; then echo "$name=$(draw)" >>"$file"; fi
done
if missing LLM_PROXY__LITELLM_API_KEY; then echo "LLM_PROXY__LITELLM_API_KEY=sk-$(draw)" >>"$file"; fi
if missing LLM_PROXY__SEALING_KEYS; then echo "LLM_PROXY__SEALING_KEYS=k1=$(draw)$(draw)" >>"$file"; fi
if missing COMPOSE_PROFILES; then echo "COMPOSE_PROFILES=self-hosted-db" >>"$file"; fi
echo "$file holds every secret docker compose needs"
