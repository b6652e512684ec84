#!/usr/bin/env bash
# The one door: sets up what is missing, then does what it is asked for.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$ROOT # the folder it is called from stays: paths in arguments mean what they say

OWN_IMAGE=${IMAGE:-} # built elsewhere, used as it is
IMAGE=${IMAGE:-nested-vnet-kits19}
DOCKER=${DOCKER:-docker}
VENV=${VENV:-$ROOT/.venv}
HARDENED=(--rm --network none --read-only --tmpfs /tmp --cap-drop ALL
  --security-opt no-new-privileges --pids-limit 128)

usage() {
  cat <<'TEXT'
./run.sh                            segment the sample cases in test_data/, print a table
./run.sh segment IN OUT [options]   segment the CTs under IN, write label maps to OUT
./run.sh docker IN OUT [options]    the same in the container, without network or rights
./run.sh build                      build the container image
./run.sh save [FILE]                write the image for Grand Challenge as .tar.gz, ready to upload
./run.sh harness IMAGE... [options] run images as an organiser does; check and score what they write
./run.sh test [pytest options]      run the tests
./run.sh sbom FILE                  the image's Python packages as CycloneDX JSON
./run.sh audit                      known vulnerabilities of these packages (asks pypi.org)
./run.sh geometry LABELS            the score of a perfect network (what the geometry costs)
./run.sh evaluate PREDICTED TRUTH   score label maps: the paper's table, KiTS's metrics; check a submission
./run.sh rank TRUTH SUBMISSION...   rank folders of label maps as KiTS23 does
./run.sh benchmark [TABLE] [options]   times and memory: tables, JSON and plots; --help lists the tables
./run.sh train [arguments]          python -m training ...
./run.sh --help                     this text; ./run.sh segment --help lists all options

The first call makes a virtual environment in .venv (about 1.5 GB).
  VENV=DIR               make it elsewhere
  EXTRA_REQUIREMENTS=requirements-dicom.txt   'build' and 'save' an image that can write DICOM segmentations
  OUTPUT_SLUG=SLUG       'save' an image that writes to this output socket of Grand Challenge
  TORCH_INDEX_URL=URL    take torch from there; https://download.pytorch.org/whl/cpu has the small CPU build
  DOCKER=podman          use another engine
  IMAGE=NAME             'docker' runs this image as it is; 'build' calls the new one so
TEXT
}

die() {
  echo "run.sh: $*" >&2
  exit 2
}

# set_up FILE...: a virtual environment with what these requirement files ask for; quick when it has it
set_up() {
  local file python flags=() stale=0
  for file in "$@"; do
    flags+=(-r "$ROOT/$file")
    cmp -s "$ROOT/$file" "$VENV/installed/$file" || stale=1
  done
  [ "$stale" = 1 ] || return 0
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    for python in python3.11 python3.12 python3.13 python3 none; do
      "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    [ "$python" != none ] || die "no Python 3.11 or newer found. Install python3 (3.11+) and pip first"
    # Debian's Python has pip in one package and what 'venv' needs to copy it in another: lend it the first
    "$python" -m venv "$VENV" >/dev/null 2>&1 ||
      { "$python" -m venv --clear --without-pip "$VENV" && "$python" -m pip --python "$VENV" install -q pip; } >&2 ||
      die "$python cannot set up $VENV. Install its pip and venv modules (Debian: python3-pip python3-venv)"
  fi
  echo "run.sh: installing $* into $VENV (once)" >&2
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "${flags[@]}" >&2
  for file in "$@"; do # copies, by which the next call knows
    mkdir -p "$(dirname "$VENV/installed/$file")"
    cp "$ROOT/$file" "$VENV/installed/$file"
  done
}

folders() { # input and output as absolute paths, the output made
  [ $# -ge 2 ] || die "give an input and an output folder"
  [ -d "$1" ] || die "$1: no such folder"
  mkdir -p "$2"
  IN=$(cd "$1" && pwd) OUT=$(cd "$2" && pwd)
}

packages() { # what Python has in the image, a line each
  "$DOCKER" run --rm --network none --entrypoint python "$IMAGE" -c '
from importlib.metadata import distributions
print(*sorted({f"{d.name}=={d.version}" for d in distributions()}), sep="\n")'
}

case "${1:-demo}" in
  demo)
    cd "$ROOT"
    set_up requirements.txt requirements-openvino.txt
    status=0
    "$VENV/bin/python" -m inference --input test_data/input --output output \
      --previews output/previews --report output/report.json --findings output/findings.csv \
      --html output/page.html || status=$?
    [ "$status" -le 1 ] || exit "$status"
    "$VENV/bin/python" -m test_data.table output/report.json output test_data/reference
    echo "label maps: output/    previews: output/previews/    report: output/report.json, output/findings.csv"
    echo "open in a browser: $ROOT/output/page.html"
    exit "$status"
    ;;
  segment)
    shift
    set_up requirements.txt requirements-openvino.txt
    case "${1:-}" in
      -h | --help | "") exec "$VENV/bin/python" -m inference --help ;;
    esac
    [ $# -ge 2 ] || die "give an input and an output folder"
    exec "$VENV/bin/python" -m inference --input "$1" --output "$2" "${@:3}"
    ;;
  build)
    # BUILD_ARGS: further flags of 'docker build', split at blanks
    # shellcheck disable=SC2086
    exec "$DOCKER" build --build-arg "REVISION=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null || true)" ${BUILD_ARGS:-} \
      ${TORCH_INDEX_URL:+--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"} \
      ${EXTRA_REQUIREMENTS:+--build-arg "EXTRA_REQUIREMENTS=$EXTRA_REQUIREMENTS"} \
      ${OUTPUT_SLUG:+--build-arg "OUTPUT_SLUG=$OUTPUT_SLUG"} -t "$IMAGE" "$ROOT"
    ;;
  save)
    shift
    IMAGE=$IMAGE-grand-challenge
    file=${1:-$(basename "$IMAGE").tar.gz}
    [ -d "$(dirname "$file")" ] || die "$(dirname "$file"): no such folder"
    command -v "$DOCKER" >/dev/null || die "$DOCKER not found. Install Docker, or name another engine in DOCKER"
    # --fast: a third of the time, for a sixth more to upload
    BUILD_ARGS="${BUILD_ARGS:-} --target grand-challenge" IMAGE=$IMAGE "$ROOT/run.sh" build >&2
    "$DOCKER" save "$IMAGE" | gzip --fast >"$file.partial" || { rm -f "$file.partial" && die "$file: not written"; }
    mv "$file.partial" "$file"
    echo "$file: upload it as the container image of an algorithm" >&2
    ;;
  harness)
    shift
    set_up evaluation/requirements.txt
    exec "$VENV/bin/python" -m evaluation.harness "$@"
    ;;
  docker)
    shift
    folders "$@"
    command -v "$DOCKER" >/dev/null || die "$DOCKER not found. Install Docker, or name another engine in DOCKER"
    [ -n "$OWN_IMAGE" ] || "$ROOT/run.sh" build >&2 # the engine's cache makes it quick the second time
    gpus=()
    command -v nvidia-smi >/dev/null && gpus=(--gpus all)
    exec "$DOCKER" run "${HARDENED[@]}" "${gpus[@]}" --user "$(id -u):$(id -g)" \
      -v "$IN":/input:ro -v "$OUT":/output "$IMAGE" "${@:3}"
    ;;
  test)
    shift
    cd "$ROOT"
    set_up requirements.txt requirements-openvino.txt requirements-dicom.txt tests/requirements.txt \
      evaluation/requirements.txt training/requirements.txt
    exec "$VENV/bin/python" -m pytest "$@"
    ;;
  sbom)
    shift
    [ $# -eq 1 ] || die "give a file to write"
    set_up requirements.txt tests/requirements.txt training/requirements.txt
    packages | "$VENV/bin/cyclonedx-py" requirements --output-reproducible --of JSON -o "$1" -
    ;;
  audit)
    VENV=$VENV-audit # small, and apart from what it audits
    set_up tests/audit-requirements.txt
    # PyPI knows 2.13.0+cpu as 2.13.0; --strict: a package that could not be audited is no success
    packages | sed 's/+.*//' |
      "$VENV/bin/pip-audit" --strict --no-deps --disable-pip --progress-spinner off -r /dev/stdin
    ;;
  geometry)
    shift
    set_up requirements.txt
    exec "$VENV/bin/python" -m benchmarks.geometry "$@"
    ;;
  evaluate)
    shift
    set_up evaluation/requirements.txt
    exec "$VENV/bin/python" -m evaluation "$@"
    ;;
  rank)
    shift
    set_up evaluation/requirements.txt
    exec "$VENV/bin/python" -m evaluation.ranking "$@"
    ;;
  benchmark)
    shift
    cd "$ROOT"
    set_up requirements.txt requirements-openvino.txt training/requirements.txt
    # the peers live in an environment of their own, made when they are asked for
    case " $* " in
      *" peers "*) VENV=$ROOT/.venv-benchmarks set_up benchmarks/requirements.txt ;;
    esac
    exec "$VENV/bin/python" -m benchmarks.run "$@"
    ;;
  train)
    shift
    set_up requirements.txt training/requirements.txt
    exec "$VENV/bin/python" -m training "$@"
    ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
