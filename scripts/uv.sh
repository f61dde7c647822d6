#!/bin/sh
# Prints the path of uv; installs it once into .uv/, pinned by hash, if it is not on PATH.
set -eu
cd "$(dirname "$0")/.."

if command -v uv; then
    exit
fi
for ready in .uv/bin/uv .uv/packages/bin/uv; do
    if [ -x "$ready" ]; then
        echo "$PWD/$ready"
        exit
    fi
done

python=$(sh scripts/python.sh)
echo "→ uv, the installer (.uv)" >&2
if "$python" -m venv .uv >/dev/null 2>&1; then
    .uv/bin/python -m pip install --quiet --require-hashes --requirement locks/uv.txt >&2
    echo "$PWD/.uv/bin/uv"
elif "$python" -m pip --version >/dev/null 2>&1; then
    rm -rf .uv
    "$python" -m pip install --quiet --target .uv/packages --require-hashes --requirement locks/uv.txt >&2
    echo "$PWD/.uv/packages/bin/uv"
else
    rm -rf .uv
    echo "make: $python has neither venv nor pip, and uv is not on PATH. One of them is needed:" >&2
    echo "      on Debian or Ubuntu 'apt install python3-venv', anywhere else put uv on PATH." >&2
    exit 1
fi
