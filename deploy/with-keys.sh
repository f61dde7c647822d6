#!/bin/sh
# Sets a variable for each secret mounted at /run/keys, one file per secret, named as the variable.
# A variable that is set already wins.
set -eu
for file in "${KEYS_FOLDER:-/run/keys}"/*; do
    name=$(basename "$file")
    case $name in *[!A-Z0-9_]*) continue ;; esac
    if [ -f "$file" ] && [ -z "$(printenv "$name" || true)" ]; then
        export "$name=$(cat "$file")"
    fi
done
exec "$@"
