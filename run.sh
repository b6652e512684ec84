#!/usr/bin/env bash
# The one door: sets up what is missing, then does what it is asked for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

IMAGE=${IMAGE:-nested-vnet-kits19}
DOCKER=${DOCKER:-docker}
VENV=${VENV:-.venv}
HARDENED=(--rm --network none --read-only --tmpfs /tmp --cap-drop ALL
  --security-opt no-new-privileges --pids-limit 128)

usage() {
  cat <<'TEXT'
./run.sh                            segment the sample cases in test_data/, print a table
./run.sh segment IN OUT [options]   segment the CTs under IN, write label maps to OUT
./run.sh docker IN OUT [options]    the same in the container, without network or rights
./run.sh build                      build the container image
./run.sh test [pytest options]      run the tests
./run.sh geometry LABELS            the score of a perfect network (what the geometry costs)
./run.sh train [arguments]          python -m training …
./run.sh --help                     this text; ./run.sh segment --help lists all options

The first call makes a virtual environment in .venv (about 1.5 GB).
  VENV=DIR               make it elsewhere
  TORCH_INDEX_URL=URL    take torch from there; https://download.pytorch.org/whl/cpu has the small CPU build
  DOCKER=podman          use another engine;  IMAGE=NAME  another image name
TEXT
}

die() {
  echo "run.sh: $*" >&2
  exit 2
}

# set_up FILE...: a virtual environment with what these requirement files ask for; quick when it has it
set_up() {
  local stamp="$VENV/.installed" wanted python
  wanted=$(cat "$@" | cksum)
  grep -qxF "$* $wanted" "$stamp" 2>/dev/null && return
  for python in python3.11 python3.12 python3.13 python3; do
    command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && break
    python=
  done
  [ -n "$python" ] || die "no Python 3.11 or newer found. Install python3 (3.11+) first"
  if [ ! -x "$VENV/bin/python" ]; then
    "$python" -m venv "$VENV" || die "$python cannot make a virtual environment. Install its venv module (python3-venv)"
  fi
  echo "run.sh: installing $* into $VENV (once)" >&2
  local files=() file
  for file in "$@"; do files+=(-r "$file"); done
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || die "pip is missing in $VENV. Install python3-pip, remove $VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "${files[@]}" >&2
  echo "$* $wanted" >>"$stamp"
}

folders() { # input and output as absolute paths, the output made
  [ $# -ge 2 ] || die "give an input and an output folder"
  [ -d "$1" ] || die "$1: no such folder"
  mkdir -p "$2"
  IN=$(cd "$1" && pwd) OUT=$(cd "$2" && pwd)
}

case "${1:-demo}" in
  demo)
    set_up requirements.txt
    "$VENV/bin/python" -m inference --input test_data/input --output output \
      --previews output/previews --report output/report.json
    "$VENV/bin/python" -m test_data.table output/report.json output test_data/reference
    echo "label maps: output/    previews: output/previews/    report: output/report.json"
    ;;
  segment)
    shift
    set_up requirements.txt
    case "${1:-}" in
      -h | --help | "") exec "$VENV/bin/python" -m inference --help ;;
    esac
    [ $# -ge 2 ] || die "give an input and an output folder"
    exec "$VENV/bin/python" -m inference --input "$1" --output "$2" "${@:3}"
    ;;
  build)
    # BUILD_ARGS: further flags of 'docker build', split at blanks
    # shellcheck disable=SC2086
    exec "$DOCKER" build ${BUILD_ARGS:-} ${TORCH_INDEX_URL:+--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"} -t "$IMAGE" .
    ;;
  docker)
    shift
    folders "$@"
    command -v "$DOCKER" >/dev/null || die "$DOCKER not found. Install Docker, or name another engine in DOCKER"
    "$DOCKER" image inspect "$IMAGE" >/dev/null 2>&1 || ./run.sh build
    gpus=()
    command -v nvidia-smi >/dev/null && gpus=(--gpus all)
    exec "$DOCKER" run "${HARDENED[@]}" "${gpus[@]}" --user "$(id -u):$(id -g)" \
      -v "$IN":/input:ro -v "$OUT":/output "$IMAGE" "${@:3}"
    ;;
  test)
    shift
    set_up requirements.txt tests/requirements.txt training/requirements.txt
    exec "$VENV/bin/python" -m pytest "$@"
    ;;
  geometry)
    shift
    set_up requirements.txt
    exec "$VENV/bin/python" -m benchmarks.geometry "$@"
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
