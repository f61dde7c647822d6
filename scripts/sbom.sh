#!/bin/sh
# Writes both environments' packages as CycloneDX 1.6 to dist/sbom/, and prints their licences.
# ADVISORIES names a zip file or folder of advisories in OSV's format (its export for PyPI) to match against.
set -eu
cd "$(dirname "$0")/.."
uv=$(sh scripts/uv.sh)
python=$(sh scripts/python.sh)
[ -x .sbom/tool/bin/python ] || "$uv" venv --quiet --python "$python" .sbom/tool
"$uv" pip install --quiet --python .sbom/tool/bin/python --no-deps --require-hashes --requirement locks/sbom.txt
# The gateway's environment as in an image: .venv also holds the tests' packages.
"$uv" venv --quiet --clear --python "$python" .sbom/gateway
"$uv" pip install --quiet --python .sbom/gateway/bin/python --no-deps --require-hashes --requirement locks/gateway.txt
.venv-sidecar/bin/python -I -S llm_proxy/sidecar/verify_environment.py --check
mkdir -p dist/sbom
for name in gateway sidecar; do
    environment=.sbom/gateway
    [ "$name" = gateway ] || environment=.venv-sidecar
    .sbom/tool/bin/cyclonedx-py environment "$environment/bin/python" --pyproject pyproject.toml \
        --output-reproducible --output-format JSON --output-file "dist/sbom/$name.cdx.json"
done
exec .sbom/tool/bin/python scripts/sbom_report.py ${ADVISORIES:+--advisories "$ADVISORIES"} dist/sbom/*.cdx.json
