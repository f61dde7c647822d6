#!/bin/sh
# Installs the packages of a lock file into an environment: environment.sh FOLDER LOCK [uv pip options].
# Creates the folder if it or its Python is missing; installs llm-proxy itself in place.
set -eu
cd "$(dirname "$0")/.."
folder=$1 lock=$2
shift 2

uv=$(sh scripts/uv.sh)
if ! "$folder/bin/python" -c '' 2>/dev/null; then
    python=$(sh scripts/python.sh)
    "$uv" venv --quiet --clear --python "$python" "$folder"
fi
"$uv" pip install --python "$folder/bin/python" --no-deps --require-hashes --requirement "$lock" "$@"
"$uv" pip install --python "$folder/bin/python" --quiet --no-deps --no-build-isolation --editable .
