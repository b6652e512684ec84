"""Many machines: shards as separate processes make what one run makes; the manifests are valid."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.helpers import files_under, save_abdomens

ROOT = Path(__file__).resolve().parent.parent
SLURM, KUBERNETES = ROOT / "deploy" / "slurm-array.sh", ROOT / "deploy" / "kubernetes-job.yaml"
KUBERNETES_VERSION = "1.31"
N_CASES = 5

SLOW_WRITER = """
import sys, time
import inference.runner.run
from inference.cli import main

write = inference.runner.run.write_label_map

def slow_write(path, labels, native):
    if path.name != "ct_0.nii.gz":
        print("ONE IS WRITTEN", file=sys.stderr, flush=True)
        time.sleep(60)
    write(path, labels, native)

inference.runner.run.write_label_map = slow_write
main()
"""


def _start(*arguments: object, program: tuple[str, ...] = ("-m", "inference")) -> subprocess.Popen[str]:
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def _label_maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    save_abdomens(folder, N_CASES)
    return folder


@pytest.fixture(scope="module")
def single_run(
    cases: Path, weights_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one machine alone writes."""
    output = tmp_path_factory.mktemp("single")
    run = _start("--input", cases, "--output", output, "--weights", weights_folder)
    assert run.wait(timeout=120) == 0, run.communicate()
    maps = _label_maps(output)
    assert len(maps) == N_CASES
    return maps


def test_kubernetes_pods_together_write_what_one_run_writes(
    cases: Path, weights_folder: Path, single_run: dict[str, bytes], tmp_path: Path
) -> None:
    """All pods of the manifest at once, with the arguments that Kubernetes would give them."""
    job = yaml.safe_load(KUBERNETES.read_text())
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    n_pods = job["spec"]["completions"]
    assert arguments[1] == f"$(INDEX)/{n_pods}"
    assert n_pods > N_CASES  # more pods than cases is no failure: three pods are enough to see it
    pods = [
        _start(
            *["--input", cases, "--output", tmp_path, "--weights", weights_folder],
            *[argument.replace("$(INDEX)", str(index)).replace("/8", "/3") for argument in arguments],
        )
        for index in range(3)
    ]
    for pod in pods:
        assert pod.wait(timeout=120) == 0, pod.communicate()
    assert _label_maps(tmp_path) == single_run
    assert len(files_under(tmp_path)) == N_CASES


def test_a_killed_slurm_task_run_again_completes_the_whole(
    cases: Path, weights_folder: Path, single_run: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    arguments = ["--input", cases, "--output", output, "--weights", weights_folder]
    killed = _start(*arguments, "--shard", "0/2", "--skip-existing", program=("-c", SLOW_WRITER))
    assert killed.stderr is not None
    assert any(line.startswith("ONE IS WRITTEN") for line in killed.stderr)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    assert _label_maps(output) == {"ct_0.nii.gz": single_run["ct_0.nii.gz"]}
    first_written = (output / "ct_0.nii.gz").stat().st_mtime_ns

    for task in (1, 2):  # the whole array again, as its header would number it from 1
        done = _slurm(tmp_path, task, str(cases), str(output), "--weights", str(weights_folder))
        assert done.returncode == 0, done.stderr
    assert _label_maps(output) == single_run
    assert (output / "ct_0.nii.gz").stat().st_mtime_ns == first_written


def _slurm(tmp_path: Path, task: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One task of an array 1-2, from a copy of the script elsewhere, as Slurm runs it."""
    spool, python = tmp_path / "spool.sh", tmp_path / "venv" / "bin" / "python"
    spool.write_bytes(SLURM.read_bytes())
    installed = tmp_path / "venv" / "installed"
    installed.mkdir(parents=True, exist_ok=True)
    for extra in ("openvino", "torch"):  # run.sh sees that nothing is to be installed
        (installed / extra).write_bytes((ROOT / "requirements.lock").read_bytes())
    python.parent.mkdir(exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    environment = {**os.environ, **slurm, "SLURM_SUBMIT_DIR": str(ROOT), "VENV": str(tmp_path / "venv")}
    command = ["bash", str(spool), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_slurm_without_folders_ends_with_2(tmp_path: Path) -> None:
    done = _slurm(tmp_path, 1, "in")
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


def test_slurm_in_a_container_mounts_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Apptainer, which is not installed here, tells what it is called with."""
    apptainer = tmp_path / "apptainer"
    apptainer.write_text('#!/bin/sh\necho "$@"\n')
    apptainer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("IMAGE", "image.sif")
    monkeypatch.delenv("SLURM_JOB_GPUS", raising=False)
    done = _slurm(tmp_path, 2, "/cts", "/maps", "--paper")
    expected = (
        "run --containall --bind /cts:/input:ro,/maps:/output image.sif --shard 1/2 --skip-existing --paper"
    )
    assert done.stdout.strip() == expected


def test_the_manifest_fits_the_schema() -> None:
    job: dict[str, Any] = yaml.safe_load(KUBERNETES.read_text())
    kubernetes_validate.validate(job, KUBERNETES_VERSION, strict=True)
    wrong = copy.deepcopy(job)
    wrong["spec"]["template"]["spec"]["containers"][0]["arguments"] = ["--shard"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)
