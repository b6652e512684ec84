#!/usr/bin/env bash
# The one door: sets up what is missing, then does what it is asked for. Each verb is a few lines at the end.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH=$ROOT # the folder it is called from stays: paths in arguments mean what they say

GIVEN_IMAGE=${IMAGE:-} # built elsewhere, used as it is
IMAGE=${IMAGE:-nested-vnet-kits19}
DOCKER=${DOCKER:-docker}
VENV=${VENV:-$ROOT/.venv}
EXTRAS=${EXTRAS:-}

usage() {
  cat <<'TEXT'
./run.sh [demo]                     segment the sample cases in test_data/, print a table
./run.sh test [pytest options]      run the tests
./run.sh segment IN OUT [options]   segment the CTs under IN, write label maps to OUT
./run.sh docker IN OUT [options]    the same in the container, without network or rights
./run.sh build                      build the container image
./run.sh save [FILE]                write the image for Grand Challenge as .tar.gz, ready to upload
./run.sh evaluate PREDICTED TRUTH   score label maps: the paper's table, KiTS's metrics; check a submission
./run.sh rank TRUTH SUBMISSION...   rank folders of label maps as KiTS23 does
./run.sh train [arguments]          python -m training ...
./run.sh benchmark [TABLE]          measure times and memory
./run.sh VERB --help                more about one of them

The first call makes a virtual environment in .venv. Settings, as variables before the command:
  VENV=DIR               make it elsewhere
  EXTRAS=torch           'segment': install PyTorch too (it is by itself where there is an NVIDIA GPU)
  EXTRAS=dicom           'segment', 'build', 'save': add --output-format dicom-seg
  TORCH_INDEX_URL=URL    take torch from there; https://download.pytorch.org/whl/cpu has the small CPU build
  OUTPUT_SLUG=SLUG       'save': the image writes to this output socket of Grand Challenge
  DOCKER=podman          use another engine
  IMAGE=NAME             'docker' runs this image as it is; 'build' calls the new one so
TEXT
}

# about VERB: its line in the text above, and what follows on stdin
about() {
  usage | grep "^\./run\.sh \[*$1"
  echo
  cat
}

die() {
  echo "run.sh: $*" >&2
  exit 2
}

# set_up EXTRA...: a virtual environment with the pinned packages of these extras; quick when it has them
set_up() {
  local extra python missing=0
  for extra in "$@"; do
    cmp -s "$ROOT/requirements.lock" "$VENV/installed/$extra" || missing=1
  done
  [ "$missing" = 1 ] || return 0
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
  echo "run.sh: installing packages for: $* into $VENV (once)" >&2
  mkdir -p "$VENV/installed"
  "$VENV/bin/python" "$ROOT/lock.py" "$@" >"$VENV/installed/pins.txt"
  "$VENV/bin/python" "$ROOT/lock.py" --unhashed "$@" >"$VENV/installed/torch.txt"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    -r "$VENV/installed/pins.txt" >&2
  [ ! -s "$VENV/installed/torch.txt" ] ||
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
      ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r "$VENV/installed/torch.txt" >&2
  for extra in "$@"; do # copies, by which the next call knows
    cp "$ROOT/requirements.lock" "$VENV/installed/$extra"
  done
}

# set_up_inference: OpenVINO, PyTorch where there is an NVIDIA GPU, and EXTRAS
set_up_inference() {
  local extras=(openvino)
  ! has_gpu || extras+=(torch)
  # shellcheck disable=SC2206 # several extras are separated by blanks
  extras+=($EXTRAS)
  set_up "${extras[@]}"
}

has_gpu() { command -v nvidia-smi >/dev/null; }

need_engine() {
  command -v "$DOCKER" >/dev/null || die "$DOCKER not found. Install Docker, or name another engine in DOCKER"
}

# build_image [FLAG...]: quiet, unless it fails. BUILD_ARGS: further flags of 'docker build', split at blanks
build_image() {
  need_engine
  local log revision
  log=$(mktemp)
  revision=$(git -C "$ROOT" describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null || true)
  echo "run.sh: building the image $IMAGE (minutes the first time)" >&2
  # shellcheck disable=SC2086
  if ! "$DOCKER" build ${BUILD_ARGS:-} "$@" --build-arg "REVISION=$revision" \
    ${TORCH_INDEX_URL:+--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"} \
    ${EXTRAS:+--build-arg "EXTRAS=$EXTRAS"} \
    ${OUTPUT_SLUG:+--build-arg "OUTPUT_SLUG=$OUTPUT_SLUG"} -t "$IMAGE" "$ROOT" >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    die "the image was not built; see above"
  fi
  rm -f "$log"
}

owner() { stat -c %u "$1" 2>/dev/null || stat -f %u "$1"; } # GNU, BSD

# own_folder DIR: make an output folder, or say who owns the one that is there
own_folder() {
  mkdir -p "$1" 2>/dev/null || die "$1: cannot be made. Choose another output folder"
  [ -w "$1" ] || die "$1: belongs to user $(owner "$1"), and you are user $(id -u), who may not write there.
  Choose another output folder, or make it yours: sudo chown $(id -u):$(id -g) '$1'"
}

demo() {
  cd "$ROOT"
  set_up_inference
  local status=0
  "$VENV/bin/python" -m inference --input test_data/input --output output \
    --previews output/previews --report output/report.json --findings output/findings.csv \
    --html output/page.html || status=$?
  [ "$status" -le 1 ] || exit "$status"
  "$VENV/bin/python" -m test_data.table output/report.json output test_data/reference
  echo "label maps: output/    previews: output/previews/    report: output/report.json, output/findings.csv"
  echo "open in a browser: $ROOT/output/page.html"
  exit "$status"
}

run_docker() {
  [ $# -ge 2 ] || die "give an input and an output folder"
  [ -d "$1" ] || die "$1: no such folder"
  need_engine
  own_folder "$2"
  [ -n "$GIVEN_IMAGE" ] || build_image # the engine's cache makes it quick the second time
  local hardening gpus=()
  # shellcheck disable=SC2207 # words without blanks
  hardening=($(grep -v '^#' "$ROOT/evaluation/harness/hardening.flags"))
  ! has_gpu || gpus=(--gpus all)
  exec "$DOCKER" run --rm "${hardening[@]}" ${gpus[@]+"${gpus[@]}"} --user "$(id -u):$(id -g)" \
    -v "$(cd "$1" && pwd)":/input:ro -v "$(cd "$2" && pwd)":/output "$IMAGE" "${@:3}"
}

save() {
  local file=${1:-$(basename "$IMAGE")-grand-challenge.tar.gz}
  [ -d "$(dirname "$file")" ] || die "$(dirname "$file"): no such folder"
  IMAGE=$IMAGE-grand-challenge
  build_image --target grand-challenge
  # --fast: a third of the time, for a sixth more to upload
  "$DOCKER" save "$IMAGE" | gzip --fast >"$file.partial" || { rm -f "$file.partial" && die "$file: not written"; }
  mv "$file.partial" "$file"
  echo "$file: upload it as the container image of an algorithm" >&2
}

verb=${1:-demo}
[ $# -eq 0 ] || shift
case "$verb $*" in
  "-h "* | "--help "* | "help "*) usage && exit ;;
  "demo -h"* | "demo --help"*) about demo <<<'Writes label maps, previews, report.json, findings.csv and page.html to output/.' && exit ;;
  "test -h"* | "test --help"*) about test <<<'Options go to pytest: ./run.sh test -k geometry. Uses all cores (-n 0: one).
With a container engine, the container is tested too.' && exit ;;
  "docker -h"* | "docker --help"*) about docker <<<'Builds the image if needed. Options are those of ./run.sh segment --help.' && exit ;;
  "build -h"* | "build --help"*) about build <<<'BUILD_ARGS holds further flags of docker build (--target cpu).' && exit ;;
  "save -h"* | "save --help"*) about save <<<'FILE is nested-vnet-kits19-grand-challenge.tar.gz unless named.' && exit ;;
esac
case "$verb" in
  demo) demo ;;
  segment)
    set_up_inference
    case "${1:-}" in
      -h | --help | "") exec "$VENV/bin/python" -m inference --help ;;
    esac
    [ $# -ge 2 ] || die "give an input and an output folder"
    exec "$VENV/bin/python" -m inference --input "$1" --output "$2" "${@:3}"
    ;;
  docker) run_docker "$@" ;;
  build) build_image "$@" ;;
  save) save "$@" ;;
  test)
    cd "$ROOT"
    set_up openvino torch dicom evaluate train dev
    exec "$VENV/bin/python" -m pytest -n auto --dist loadgroup --no-loadscope-reorder "$@"
    ;;
  evaluate)
    set_up evaluate
    exec "$VENV/bin/python" -m evaluation "$@"
    ;;
  rank)
    set_up evaluate
    exec "$VENV/bin/python" -m evaluation.ranking "$@"
    ;;
  train)
    set_up openvino torch evaluate train
    exec "$VENV/bin/python" -m training "$@"
    ;;
  benchmark)
    cd "$ROOT"
    set_up openvino torch evaluate train
    exec "$VENV/bin/python" -m benchmarks.run "$@"
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
