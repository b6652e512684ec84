#!/usr/bin/env bash
# What a GPU makes of it: label maps against the CPU's, seconds by stage, memory, tests, training's data.
#   benchmarks/gpu.sh --seconds 100 --out FOLDER        the most valuable figures first, as many as the time allows
#   benchmarks/gpu.sh --device cpu --tiny --out FOLDER  a rehearsal where there is no GPU
# Wheels in .whl/ (nibabel, isal and what else is missing, for machines that lack them and a network) are installed beside the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
SITE=${SITE:-/tmp/site}
if [ -d .whl ]; then
  wheels=$(printf '%s\n' .whl/*.whl)
  if [ "$(cat "$SITE/.wheels" 2>/dev/null)" != "$wheels" ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$SITE" .whl/*.whl
    echo "$wheels" >"$SITE/.wheels"
  fi
  export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$PYTHON" -m benchmarks.gpu "$@"
