#!/bin/sh
# Applies a changed litellm-config.yaml or .keys/ to a running compose stack: deploy/reload.sh
# Checks the file, then restarts the sidecars one after the other; the others serve meanwhile, so run at least two.
set -eu
docker compose run --rm --no-deps -T --entrypoint /app/.venv/bin/python \
    -v "$PWD/litellm-config.yaml:/tmp/litellm-config.yaml:ro" llm-proxy -m llm_proxy config check --start /tmp/litellm-config.yaml
for one in $(docker compose ps -q litellm); do
    docker restart --time 45 "$one" >/dev/null
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$one")" = healthy ]; do
        [ "$(docker inspect --format '{{.State.Running}}' "$one")" = true ] || { echo "$one ended"; exit 1; }
        sleep 1
    done
    echo "$one serves the new configuration"
done
