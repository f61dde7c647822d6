#!/bin/sh
# Sets a variable for each secret mounted at /run/keys, one file per secret, named as the variable.
# KEYS_FOLDER names other folders, colons between them. A variable that is set already wins.
set -eu
folders=${KEYS_FOLDER:-/run/keys}:
while [ -n "$folders" ]; do
    for file in "${folders%%:*}"/*; do
        name=$(basename "$file")
        case $name in *[!A-Z0-9_]*) continue ;; esac
        if [ -f "$file" ] && [ -z "$(printenv "$name" || true)" ]; then
            export "$name=$(cat "$file")"
        fi
    done
    folders=${folders#*:}
done
exec "$@"
