#!/bin/sh
# A changed litellm-config.yaml or .keys/ for a running compose stack: deploy/reload.sh
# Checks the file, then restarts the sidecars one after the other; the others serve meanwhile, so have two or more.
set -eu
docker compose run --rm --no-deps -T --entrypoint /app/.venv/bin/python \
    -v "$PWD/litellm-config.yaml:/tmp/litellm-config.yaml:ro" llm-proxy -m llm_proxy config check --faults /tmp/litellm-config.yaml
for one in $(docker compose ps -q litellm); do
    docker restart --time 45 "$one" >/dev/null
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$one")" = healthy ]; do
        [ "$(docker inspect --format '{{.State.Running}}' "$one")" = true ] || { echo "$one does not stay up"; exit 1; }
        sleep 1
    done
    echo "$one serves the new configuration"
done
