"""The container contract, with a real engine: skipped where there is none (`conftest.image` says so)."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import lock
from evaluation.harness import engine
from evaluation.harness.engine import DOCKER, Limits, hardening
from evaluation.metrics import dice
from inference.formats.ct import read_ct
from inference.runner.cases import find_cases
from inference.version import __version__
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    abdomen,
    canonical_affine,
    files_under,
    save_abdomens,
    save_dicom_series,
    save_nifti,
    save_sitk,
    truncate,
    write_weights,
)

ROOT = Path(__file__).resolve().parent.parent
HARDENED = ["--rm", *hardening(Limits(memory="4g", pids=128, user="12345:12345"))]
MEMORY_BYTES = 4 << 30
CPU_IMAGE_BYTES = 1_400_000_000
LEAN_IMAGE_BYTES = 790_000_000
"""Of the target without PyTorch: 775 MB, 5 MB of pydicom and the findings, and 6 MB of the coarse network."""


@pytest.fixture(scope="module")
def lean_image() -> Iterator[str]:
    """The Dockerfile's target for CPUs, without PyTorch."""
    if not engine.is_available():
        pytest.skip("NO CONTAINER ENGINE: THE CONTAINER IS NOT TESTED")
    name = "nested-vnet-kits19-test-cpu"
    arguments = f"{os.environ.get('BUILD_ARGS', '')} --target cpu"
    environment = {**os.environ, "IMAGE": name, "BUILD_ARGS": arguments}
    subprocess.run(["./run.sh", "build"], cwd=ROOT, env=environment, check=True)
    yield name
    subprocess.run([DOCKER, "image", "rm", name], capture_output=True, check=False)


def _run_container(
    image: str,
    output: Path,
    *arguments: str,
    source: Path = ROOT / "test_data" / "input",
    flags: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    output.mkdir()
    output.chmod(0o777)  # the container's user is nobody's here
    mounts = ["-v", f"{source}:/input:ro", "-v", f"{output}:/output"]
    command = [DOCKER, "run", *HARDENED, *mounts, *flags, image, *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def test_the_hardened_container_writes_what_the_local_run_writes(image: str, tmp_path: Path) -> None:
    done = _run_container(image, tmp_path / "container")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    local = [sys.executable, "-m", "inference", "--input", "test_data/input"]
    subprocess.run([*local, "--output", str(tmp_path / "local")], cwd=ROOT, check=True)
    cases = find_cases(ROOT / "test_data" / "input")
    assert len(cases) >= 3
    for case in cases:
        ours, theirs = (read_ct(tmp_path / where / case.output) for where in ("local", "container"))
        np.testing.assert_array_equal(theirs.hu, ours.hu)
        np.testing.assert_array_equal(theirs.native.affine, ours.native.affine)


def test_the_lean_image_has_no_pytorch_and_writes_the_same_label_maps(
    lean_image: str, tmp_path: Path
) -> None:
    asked = ["--precision", "float32", "--report", "/output/report.json"]
    done = _run_container(lean_image, tmp_path / "lean", *asked)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "lean" / "report.json").read_text())
    assert report["run"]["backend"] == "openvino"
    assert report["versions"]["torch"] is None
    local = [sys.executable, "-m", "inference", "--input", "test_data/input", "--backend", "torch"]
    options = ["--device", "cpu", "--precision", "float32", "--output", str(tmp_path / "local")]
    subprocess.run([*local, *options], cwd=ROOT, check=True)
    for case in find_cases(ROOT / "test_data" / "input"):
        ours, theirs = (read_ct(tmp_path / where / case.output).hu for where in ("local", "lean"))
        assert dice(theirs > 0, ours > 0) >= 0.999
        assert dice(theirs == 2, ours == 2) >= 0.999
    inspect = [DOCKER, "image", "inspect", "--format", "{{.Size}}", lean_image]
    size_bytes = int(subprocess.run(inspect, capture_output=True, encoding="utf-8", check=True).stdout)
    assert size_bytes <= LEAN_IMAGE_BYTES


def test_the_lean_image_says_that_it_knows_no_gpu(lean_image: str, tmp_path: Path) -> None:
    done = _run_container(lean_image, tmp_path / "out", "--device", "cuda")
    assert done.returncode == 2
    assert "use an image with PyTorch" in done.stderr


def test_an_output_it_may_not_write_ends_with_2_before_any_work(image: str, tmp_path: Path) -> None:
    done = _run_container(image, tmp_path / "out", "--output", "/input/labels")
    assert done.returncode == 2
    assert "/input/labels" in done.stderr


IMAGE_CHECK = """
import importlib.util, json, os, pathlib, stat
assert os.getuid() == 10001, os.getuid()
assert importlib.util.find_spec("pip") is None
COMPILERS = set("cc gcc g++ c++ cpp clang clang++ tcc ld as make cmake nvcc rustc go".split())
SECRETS = set(".netrc .pypirc .git .git-credentials .env .npmrc .ssh .aws .docker id_rsa".split())
bad = []
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/sys", "/dev")]
    for name in folders + files:
        path = os.path.join(folder, name)
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            continue
        if info.st_mode & 0o6000:
            bad.append(("setuid or setgid", path))
        if info.st_mode & 0o002 and path != "/tmp":
            bad.append(("world-writable", path))
        if name in COMPILERS and info.st_mode & 0o111 and not stat.S_ISDIR(info.st_mode):
            bad.append(("compiler", path))
        if name.endswith("_history") or name in SECRETS or name.endswith((".key", ".p12", ".pfx")):
            bad.append(("history or secret", path))
words = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "API_KEY")
bad += [("secret", name) for name in os.environ if any(word in name.upper() for word in words)]
print(json.dumps(bad))
"""


def test_the_image_has_no_tools_no_secrets_and_nothing_to_gain_rights_by(image: str) -> None:
    command = [DOCKER, "run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", IMAGE_CHECK]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_full_disk_and_no_folder_for_temporary_files(image: str, tmp_path: Path) -> None:
    """Read-only root without /tmp, 300 kB of output: what fits is written, what does not leaves nothing."""
    source, weights = tmp_path / "in", write_weights(tmp_path / "weights")
    small, _ = save_abdomens(source, 2)
    big = abdomen((96, 80, 96))
    save_nifti(source / "big.nii", big, canonical_affine(ABDOMEN_SPACING_MM))  # 737 kB of labels
    save_sitk(source / "big.mhd", np.zeros((96, 80, 96), dtype=np.int16) - 50, ABDOMEN_SPACING_MM)
    flags = [flag for flag in HARDENED if flag not in ("--tmpfs", "/tmp")]
    mounts = ["-v", f"{source}:/input:ro", "-v", f"{weights}:/opt/ml/model:ro"]
    mounts += ["--tmpfs", "/output:size=300k,mode=1777,uid=12345", "--entrypoint", "sh"]
    script = "python -m inference; code=$?; ls -A /output; exit $code"
    command = [DOCKER, "run", *flags, *mounts, image, "-c", script]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "FAILED" in line]
    assert "big.nii: No space left on device. Check the output folder" in line
    assert done.stdout.split() == ["big.mhd", "big.zraw", small.name, "ct_1.nii.gz"]
    assert "Traceback" not in done.stderr


def test_no_folder_for_temporary_files_at_all(image: str, tmp_path: Path) -> None:
    source, weights, output = tmp_path / "in", write_weights(tmp_path / "weights"), tmp_path / "out"
    output.mkdir()
    (path,) = save_abdomens(source, 1)
    mounts = ["-v", f"{source}:/input:ro", "-v", f"{weights}:/opt/ml/model:ro", "-v", f"{output}:/output"]
    script = "rmdir /tmp /var/tmp && python -m inference"  # only root may: its root is not read-only here
    command = [DOCKER, "run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "sh", *mounts]
    done = subprocess.run([*command, image, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert files_under(output) == [path.name]


def test_labels_name_version_revision_and_both_licences(image: str) -> None:
    inspect = [DOCKER, "image", "inspect", "--format", "{{json .Config.Labels}}", image]
    done = subprocess.run(inspect, capture_output=True, encoding="utf-8", check=True)
    labels = json.loads(done.stdout)
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0 AND CC-BY-NC-SA-4.0"
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])


def test_sbom_names_what_is_in_the_image(image: str, tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "deploy.packages", "--image", image, "sbom", str(file)]
    subprocess.run(command, cwd=ROOT, check=True)
    sbom = json.loads(file.read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    found = {part["name"].lower(): part["version"] for part in sbom["components"]}
    pinned = dict(pin.version.split(" ")[0].split("==") for pin in lock.select(lock.read_lock(), ["torch"]))
    for name in ("torch", "simpleitk", "nibabel", "numpy", "scipy", "safetensors", "click", "tqdm", "pillow"):
        assert found[name].split("+")[0] == pinned[name]
    assert "pip" not in found


def test_mounted_weights_take_the_place_of_the_images_and_a_broken_case_costs_only_itself(
    image: str, tmp_path: Path
) -> None:
    weights, source, output = write_weights(tmp_path / "weights"), tmp_path / "in", tmp_path / "out"
    whole, broken = save_abdomens(source, 2)
    truncate(broken)
    for file in weights.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    # env -u: Docker itself sets HOME for a user that the image does not know
    flags = ("-v", f"{weights}:/opt/ml/model:ro", "--entrypoint", "env")
    command = ("-u", "HOME", "python", "-m", "inference")
    done = _run_container(image, output, *command, source=source, flags=flags)
    assert done.returncode == 1, done.stderr
    assert broken.name in done.stderr
    assert files_under(output) == [whole.name]
    assert np.unique(read_ct(output / whole.name).hu).tolist() == [0, 1, 2]


def test_the_memory_limit_holds_and_the_image_is_small(image: str) -> None:
    script = (
        "import pathlib, importlib.metadata as m\n"
        "limits = map(pathlib.Path, ('/sys/fs/cgroup/memory.max',\n"
        "                            '/sys/fs/cgroup/memory/memory.limit_in_bytes'))\n"
        "print(next(p.read_text().strip() for p in limits if p.exists()), m.version('torch'))\n"
    )
    command = [DOCKER, "run", *HARDENED, "--entrypoint", "python", image, "-c", script]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    limit, torch_version = done.stdout.split()
    assert int(limit) == MEMORY_BYTES
    inspect = [DOCKER, "image", "inspect", "--format", "{{.Size}}", image]
    size_bytes = int(subprocess.run(inspect, capture_output=True, encoding="utf-8", check=True).stdout)
    if torch_version.endswith("+cpu"):
        assert size_bytes <= CPU_IMAGE_BYTES


# -------------------------------------------------------------------------------------------- Grand Challenge

GRAND_CHALLENGE_OUTPUT = "images/kidney-tumor-segmentation/1b2c.mha"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """An input folder as Grand Challenge lays it, and the model that it mounts."""
    save_sitk(tmp_path / "in" / "images" / "ct" / "1b2c.mha", abdomen(), ABDOMEN_SPACING_MM)
    socket = {"slug": "ct", "relative_path": "images/ct", "super_kind": "Image"}
    value = {"socket": socket, "interface": socket, "value": None, "file": None, "image": {"name": "a.mha"}}
    (tmp_path / "in" / "inputs.json").write_text(json.dumps([value]))
    write_weights(tmp_path / "model")
    return tmp_path


def check_grand_challenge_output(output: Path) -> None:
    path = output / GRAND_CHALLENGE_OUTPUT
    assert [p for p in output.rglob("*") if p.is_file()] == [path]
    assert b"CompressedData = True" in path.read_bytes()[:500]
    labels = sitk.ReadImage(str(path))
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert labels.GetSpacing() == ABDOMEN_SPACING_MM[::-1]
    # the mounted model thresholds; the image's own would find nothing in this CT
    assert np.unique(sitk.GetArrayFromImage(labels)).tolist() == [0, 1, 2]


def test_a_job_of_grand_challenge_in_exec_mode(image: str, job: Path) -> None:
    flags = ("-v", f"{job / 'model'}:/opt/ml/model:ro")
    done = _run_container(image, job / "out", source=job / "in", flags=flags)
    assert done.returncode == 0, done.stderr
    check_grand_challenge_output(job / "out")


@pytest.fixture
def saved(image: str, tmp_path: Path) -> Iterator[Path]:
    """The .tar.gz to upload; the engine has forgotten the image itself."""
    file = tmp_path / "upload.tar.gz"
    subprocess.run(["./run.sh", "save", str(file)], cwd=ROOT, env={**os.environ, "IMAGE": image}, check=True)
    subprocess.run([DOCKER, "image", "rm", f"{image}-grand-challenge"], capture_output=True, check=True)
    yield file
    subprocess.run([DOCKER, "image", "rm", f"{image}-grand-challenge"], capture_output=True, check=False)


def test_the_saved_image_is_loaded_and_invoked_as_on_grand_challenge(
    saved: Path, image: str, job: Path
) -> None:
    subprocess.run([DOCKER, "load", "--quiet", "--input", str(saved)], check=True)
    name = f"{image}-grand-challenge"
    label = '{{index .Config.Labels "org.grand-challenge.api-method"}}'
    inspect = [DOCKER, "image", "inspect", "--format", label, name]
    assert (
        subprocess.run(inspect, capture_output=True, encoding="utf-8", check=True).stdout.strip() == "invoke"
    )

    (job / "out").mkdir()
    (job / "out").chmod(0o777)
    mounts = ["-v", f"{job}/in:/input:ro", "-v", f"{job}/out:/output", "-v", f"{job}/model:/opt/ml/model:ro"]
    server = subprocess.Popen([DOCKER, "run", *HARDENED, "--name", name, *mounts, name])
    try:
        while ask(name, "GET", "/health") != "200":  # from inside: there is no network
            assert server.poll() is None
            time.sleep(1)
        assert ask(name, "POST", "/invoke") == "201"
    finally:
        subprocess.run([DOCKER, "rm", "--force", name], capture_output=True, check=False)
        server.wait()
    check_grand_challenge_output(job / "out")


def ask(container: str, method: str, path: str) -> str:
    """The server's answer, "" while it does not listen."""
    script = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 4743)\n"
        "c.request(*sys.argv[1:]); print(c.getresponse().status)"
    )
    command = [DOCKER, "exec", container, "python", "-c", script, method, path]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout.strip()


# ---------------------------------------------------------------------------------------- DICOM segmentations


@pytest.fixture
def series(tmp_path: Path) -> Path:
    save_dicom_series(tmp_path / "in" / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    return tmp_path


def test_the_lean_image_says_how_to_get_dicom_segmentations(image: str, series: Path) -> None:
    done = _run_container(image, series / "out", "--output-format", "dicom-seg", source=series / "in")
    assert done.returncode == 2
    assert "EXTRAS=dicom" in done.stderr
    assert files_under(series / "out") == []


def test_the_lean_image_reads_dicom_and_writes_structure_sets(lean_image: str, series: Path) -> None:
    flags = ("-v", f"{write_weights(series / 'weights')}:/opt/ml/model:ro")
    for format_ in ("label-map", "rtstruct"):
        arguments = ("--output-format", format_)
        out = series / format_
        done = _run_container(lean_image, out, *arguments, source=series / "in", flags=flags)
        assert done.returncode == 0, done.stderr
    assert files_under(series / "label-map") == ["scan.nii.gz"]
    assert files_under(series / "rtstruct") == ["scan.rtstruct.dcm"]


def test_an_image_with_the_extra_writes_them(image: str, series: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    name = f"{image}-dicom"
    extra = {"IMAGE": name, "EXTRAS": "dicom"}
    subprocess.run(["./run.sh", "build"], cwd=ROOT, env={**os.environ, **extra}, check=True)
    flags = ("-v", f"{write_weights(series / 'weights')}:/opt/ml/model:ro")
    arguments = ("--output-format", "dicom-seg")
    try:
        done = _run_container(name, series / "out", *arguments, source=series / "in", flags=flags)
    finally:
        subprocess.run([DOCKER, "image", "rm", name], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    segments = pydicom.dcmread(series / "out" / "scan.dcm").SegmentSequence
    labels = [segment.SegmentLabel for segment in segments]
    assert labels == ["Left kidney", "Right kidney", "Tumor 1 (left kidney)"]
