#!/bin/sh
# Builds the site of the documentation into site/: docs.sh. A warning is an error; its text is printed without colours.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
if .venv/bin/zensical build --clean --strict >"$out" 2>&1; then
    echo "the site is in site/: open site/index.html"
else
    sed -e 's/\x1b\[[0-9;]*m//g' -e '/^Traceback/,$d' "$out" >&2
    exit 1
fi
