#!/bin/sh
# Gives a container's program the secrets mounted at /run/keys: one file per secret, named as the variable.
# What the environment already holds wins.
set -eu
for file in "${KEYS_FOLDER:-/run/keys}"/*; do
    name=$(basename "$file")
    case $name in *[!A-Z0-9_]*) continue ;; esac
    if [ -f "$file" ] && [ -z "$(printenv "$name" || true)" ]; then
        export "$name=$(cat "$file")"
    fi
done
exec "$@"
