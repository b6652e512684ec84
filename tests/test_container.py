"""The container contract, with a real engine: skipped where there is none (the reason says so)."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.cases import find_cases
from inference.ct import read_ct
from test_data.table import dice
from tests.helpers import files_under, save_abdomens, truncate, write_weights

ROOT = Path(__file__).resolve().parent.parent
DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = "nested-vnet-kits19-test"
HARDENED = [
    *["--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"],
    *["--security-opt", "no-new-privileges", "--pids-limit", "128", "--memory", "4g"],
    *["--user", "12345:12345"],
]
MEMORY_BYTES = 4 << 30
CPU_IMAGE_BYTES = 1_400_000_000
LEAN_IMAGE_BYTES = 800_000_000
"""Of the target without PyTorch."""


def _engine() -> bool:
    if shutil.which(DOCKER) is None:
        return False
    return subprocess.run([DOCKER, "info"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _engine(), reason="NO CONTAINER ENGINE: THE CONTAINER IS NOT TESTED")


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    subprocess.run(["./run.sh", "build"], cwd=ROOT, env={**os.environ, "IMAGE": IMAGE}, check=True)
    yield IMAGE
    subprocess.run([DOCKER, "image", "rm", IMAGE], capture_output=True, check=False)


@pytest.fixture(scope="module")
def lean_image() -> Iterator[str]:
    """The Dockerfile's target for CPUs, without PyTorch."""
    arguments = f"{os.environ.get('BUILD_ARGS', '')} --target cpu"
    environment = {**os.environ, "IMAGE": f"{IMAGE}-cpu", "BUILD_ARGS": arguments}
    subprocess.run(["./run.sh", "build"], cwd=ROOT, env=environment, check=True)
    yield f"{IMAGE}-cpu"
    subprocess.run([DOCKER, "image", "rm", f"{IMAGE}-cpu"], capture_output=True, check=False)


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
    done = _run_container(lean_image, tmp_path / "lean", "--report", "/output/report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "lean" / "report.json").read_text())
    assert report["run"]["backend"] == "openvino"
    assert report["versions"]["torch"] is None
    local = [sys.executable, "-m", "inference", "--input", "test_data/input", "--backend", "torch"]
    options = ["--device", "cpu", "--output", str(tmp_path / "local")]
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
