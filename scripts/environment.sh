#!/bin/sh
# Brings an environment to what a lock file says: environment.sh FOLDER LOCK [uv pip options].
# Makes the folder when it is missing or its Python is gone; installs llm-proxy itself in place.
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
