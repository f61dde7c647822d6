#!/bin/sh
# Installs ferrogw, a gateway we are measured beside, and locust, a load tool, into .bench/. Neither is needed
# to run llm-proxy.
set -eu
cd "$(dirname "$0")/.."

uv=$(sh scripts/uv.sh)
[ -x .bench/venv/bin/python ] || "$uv" venv --quiet --python "$(sh scripts/python.sh)" .bench/venv
"$uv" pip install --quiet --python .bench/venv/bin/python --require-hashes --requirement locks/bench.txt
