#!/usr/bin/env bash
# OUT=folder bash benchmarks/gpu.sh [--toy]: what a GPU lent for eight minutes can tell; benchmarks/gpu.md says what comes out.
# WHEELS: a folder of wheels that this machine lacks (default: wheels). DEADLINE: seconds for everything (default: 450). PYTHON: default python3.
set -euo pipefail
: "${OUT:?names no folder; set it to where gpu.json and gpu.tar.gz shall go}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "$0")/.."
WHEELS=${WHEELS:-wheels} DEADLINE=${DEADLINE:-450} PYTHON=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
unpack() {
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check --upgrade --target "$site" "$@"
}
if compgen -G "$WHEELS/*.whl" >/dev/null && ! unpack "$WHEELS"/*.whl; then  # one that does not fit this machine must not stop the others
  for wheel in "$WHEELS"/*.whl; do unpack "$wheel" || echo "left out: $wheel"; done
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error MPLBACKEND=agg PYTHONDONTWRITEBYTECODE=1
[ "${TOY:-0}" = 0 ] || set -- --toy "$@"
"$PYTHON" -m benchmarks.gpu --out "$OUT" --seconds "$((DEADLINE - SECONDS))" "$@"
