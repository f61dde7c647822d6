#!/bin/sh
# Replaces sidecars and gateways by new images, one after the other; with the profile `edge` no call is lost.
#   deploy/upgrade.sh          builds this source tree first
#   deploy/upgrade.sh --as-is  takes the images that are there: after a pull, or to go back
# Old sidecars and gateways finish their calls (LLM_PROXY__DRAIN_TIMEOUT_S) and get no new ones. If a new one does not
# become healthy, the old ones that are left go on, and the exit code is 1. One more sidecar runs meanwhile.
set -eu
[ "${1:-}" = --as-is ] || docker compose build llm-proxy litellm
docker compose run --rm --no-deps -T migrate

wait_until_healthy() {
    for one in $(docker compose ps -q "$1"); do
        tries=180
        until [ "$(docker inspect --format '{{.State.Health.Status}}' "$one")" = healthy ]; do
            tries=$((tries - 1))
            [ "$tries" -gt 0 ] || { echo "$1 is not healthy: docker logs $one" >&2; exit 1; }
            sleep 1
        done
    done
}

replicas() { docker compose ps -q "$1" | wc -l; }

sidecars=$(replicas litellm)
for old in $(docker compose ps -q litellm); do
    docker compose up -d --no-deps --no-build --no-recreate --scale "litellm=$((sidecars + 1))" litellm
    wait_until_healthy litellm
    docker stop --time 45 "$old" >/dev/null
    docker rm "$old" >/dev/null
    echo "a sidecar is replaced"
done

edge() { [ -z "$(docker compose ps -q edge)" ] || docker compose exec -T edge sh /etc/llm-proxy/start.sh "$@"; }
for gateway in llm-proxy-2 llm-proxy; do
    count=$(replicas "$gateway")
    [ "$((count))" -gt 0 ] || continue
    edge out "$gateway:7007"
    docker compose up -d --no-deps --no-build --force-recreate --scale "$gateway=$((count))" "$gateway"
    wait_until_healthy "$gateway"
    edge in
    echo "$gateway is replaced"
done
