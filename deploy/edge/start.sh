#!/bin/sh
# In the container `edge`: `start.sh` runs nginx, `start.sh out llm-proxy:7007` gives that gateway no new call
# (its running ones go on), `start.sh in` gives calls to all of them again. EDGE_... is for other places than compose.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
run=${EDGE_RUN:-/tmp}

write() {
    for gateway in ${EDGE_GATEWAYS:-llm-proxy:7007 llm-proxy-2:7007}; do
        [ "$gateway" = "$1" ] && state=' down' || state=
        echo "server $gateway${EDGE_RESOLVE- resolve} max_fails=2 fail_timeout=2s$state;"
    done >"$run/gateways.conf"
    # A name has an address for each replica. Old workers let callers' idle connections be used once more.
    : >"$run/resolver.conf"
    if [ -n "${EDGE_RESOLVE- resolve}" ]; then
        echo 'resolver 127.0.0.11 valid=2s; keepalive_min_timeout 2s;' >"$run/resolver.conf"
    fi
    sed -e "s|@RUN@|$run|g" -e "s|@HERE@|$here|g" -e "s|@LISTEN@|${EDGE_LISTEN:-8080}|" \
        "$here/nginx.conf" >"$run/nginx.conf"
}

reload() {
    nginx -q -t -c "$run/nginx.conf"
    nginx -c "$run/nginx.conf" -s reload
    sleep 1 # new workers take over; until then old ones pass calls on as before
}

case ${1:-run} in
    run) write '' && exec nginx -c "$run/nginx.conf" -g 'daemon off;' ;;
    out) write "$2" && reload ;;
    in) write '' && reload ;;
    *) echo "start.sh [run | out HOST:PORT | in]" >&2 && exit 2 ;;
esac
