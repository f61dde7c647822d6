#!/bin/sh
# Brings the gateways we are measured beside into .bench/: ferrogw from its wheel, Portkey from npm where there
# is one. Each one's version is fixed; neither is ever needed to run llm-proxy.
set -eu
cd "$(dirname "$0")/.."
portkey=1.15.2

uv=$(sh scripts/uv.sh)
[ -x .bench/venv/bin/python ] || "$uv" venv --quiet --python "$(sh scripts/python.sh)" .bench/venv
"$uv" pip install --quiet --python .bench/venv/bin/python --require-hashes --requirement locks/bench.txt
if ! command -v npm >/dev/null; then
    echo "no npm here: Portkey is left out of the benchmark" >&2
elif ! grep -qs "\"version\": \"$portkey\"" .bench/node_modules/@portkey-ai/gateway/package.json; then
    npm install --prefix .bench --no-audit --no-fund --no-save --loglevel=error "@portkey-ai/gateway@$portkey"
fi
