"""The container contract, with a real engine: skipped where there is none (`conftest.image` says so)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from inference.cases import find_cases
from inference.ct import read_ct
from tests.harness.engine import DOCKER, Limits, hardening
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    abdomen,
    files_under,
    save_abdomens,
    save_dicom_series,
    save_sitk,
    truncate,
    write_weights,
)

ROOT = Path(__file__).resolve().parent.parent
HARDENED = ["--rm", *hardening(Limits(memory="4g", pids=128, user="12345:12345"))]
MEMORY_BYTES = 4 << 30
CPU_IMAGE_BYTES = 1_400_000_000


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


def test_an_output_it_may_not_write_ends_with_2_before_any_work(image: str, tmp_path: Path) -> None:
    done = _run_container(image, tmp_path / "out", "--output", "/input/labels")
    assert done.returncode == 2
    assert "/input/labels" in done.stderr


def test_the_image_has_no_pip_no_setuid_and_does_not_run_as_root(image: str) -> None:
    script = (
        "import importlib.util, os, pathlib, sys\n"
        "assert os.getuid() == 10001, os.getuid()\n"
        "assert importlib.util.find_spec('pip') is None\n"
        "bad = [p for top in ('/opt', '/app', '/usr', '/bin', '/etc') for p in pathlib.Path(top).rglob('*')\n"
        "       if p.is_file() and not p.is_symlink() and p.stat().st_mode & 0o6002]\n"
        "assert not bad, bad\n"
    )
    command = [DOCKER, "run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", script]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


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
    assert "EXTRA_REQUIREMENTS=requirements-dicom.txt" in done.stderr
    assert files_under(series / "out") == []


def test_an_image_with_the_extra_requirements_writes_them(image: str, series: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    name = f"{image}-dicom"
    extra = {"IMAGE": name, "EXTRA_REQUIREMENTS": "requirements-dicom.txt"}
    subprocess.run(["./run.sh", "build"], cwd=ROOT, env={**os.environ, **extra}, check=True)
    flags = ("-v", f"{write_weights(series / 'weights')}:/opt/ml/model:ro")
    arguments = ("--output-format", "dicom-seg")
    try:
        done = _run_container(name, series / "out", *arguments, source=series / "in", flags=flags)
    finally:
        subprocess.run([DOCKER, "image", "rm", name], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    segments = pydicom.dcmread(series / "out" / "scan.dcm").SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["Kidney", "Kidney tumor"]
