#!/bin/sh
# Replaces the gateways of the profile `edge` by new images, one after the other; no call is lost.
#   deploy/upgrade.sh          builds this source tree first
#   deploy/upgrade.sh --as-is  takes the images that are there: after a pull, or to go back
# A gateway that gets no new call any more finishes its own (LLM_PROXY__DRAIN_TIMEOUT_S) before it is replaced. If a new
# one does not become healthy, it gets no call, the other keeps serving, and the exit code is 1.
set -eu
[ "${1:-}" = --as-is ] || docker compose build llm-proxy
docker compose run --rm --no-deps -T migrate
edge() { docker compose exec -T edge sh /etc/llm-proxy/start.sh "$@"; }
for gateway in llm-proxy-2 llm-proxy; do
    replicas=$(docker compose ps -q "$gateway" | wc -l)
    edge out "$gateway:7007"
    docker compose up -d --no-deps --no-build --force-recreate --scale "$gateway=$((replicas))" "$gateway"
    for one in $(docker compose ps -q "$gateway"); do
        tries=90
        until [ "$(docker inspect --format '{{.State.Health.Status}}' "$one")" = healthy ]; do
            tries=$((tries - 1))
            [ "$tries" -gt 0 ] || { echo "$gateway is not healthy; the other gateway serves all calls" >&2; exit 1; }
            sleep 1
        done
    done
    edge in
    echo "$gateway is replaced"
done
