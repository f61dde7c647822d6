#!/bin/sh
# Installs the packages of a lock file into an environment: environment.sh FOLDER LOCK [uv pip options].
# Creates the folder if it or its Python is missing; installs llm-proxy itself in place. V=1 shows every package.
set -eu
cd "$(dirname "$0")/.."
folder=$1 lock=$2
shift 2

uv=$(sh scripts/uv.sh)
if ! "$folder/bin/python" -c '' 2>/dev/null; then
    python=$(sh scripts/python.sh)
    "$uv" venv --quiet --clear --python "$python" "$folder"
fi
quiet=--quiet
[ -z "${V:-}" ] || quiet=--verbose

# How many packages are there, on a terminal; uv's own bars come with a line for each package.
show_progress() {
    total=$(grep -c '^[A-Za-z0-9].*==' "$lock")
    while sleep 0.5; do
        there=$(find "$folder" -maxdepth 4 -name '*.dist-info' | wc -l)
        printf '\r  %s of about %s packages ' "$((there < total ? there : total))" "$total" >&2
    done
}
progress=
if [ -t 2 ] && [ -z "${V:-}" ]; then
    show_progress &
    progress=$!
fi
end_progress() { [ -z "$progress" ] || { kill "$progress" 2>/dev/null; printf '\r\033[K' >&2; progress=; }; }
trap end_progress EXIT

"$uv" pip install $quiet --python "$folder/bin/python" --no-deps --require-hashes --requirement "$lock" "$@"
end_progress
"$uv" pip install --python "$folder/bin/python" --quiet --no-deps --no-build-isolation --editable .
