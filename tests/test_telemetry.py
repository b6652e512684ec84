"""A run tells nobody anything: no name is looked up, and nothing is written but what was asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ABDOMEN_SPACING_MM, abdomen, files_under, save_abdomens, save_dicom_series

ROOT = Path(__file__).resolve().parent.parent
LISTEN = """
import os, runpy, sys
def heard(event, details):
    if event.startswith("socket."):
        print(event, details, file=sys.stderr)
    if event == "open" and (details[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        print("writes", details[0], file=sys.stderr)
sys.addaudithook(heard)
sys.argv[0] = "inference"
runpy.run_module("inference", run_name="__main__", alter_sys=True)
"""
NETWORK_CALLS = ("AF_INET", "AF_INET6", "sendto(", "sendmmsg(")


def command(tmp_path: Path, weights: Path, backend: str) -> tuple[list[str], dict[str, str]]:
    """Arguments of a run over a NIfTI file and a DICOM series, and an environment with a HOME of its own."""
    save_abdomens(tmp_path / "in", 1)
    save_dicom_series(tmp_path / "in" / "series", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    (tmp_path / "home").mkdir()
    # the image has no requests; where there is, pydicom imports it, and urllib3 then tries out IPv6
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "requests.py").write_text("raise ImportError")
    arguments = ["--input", "in", "--output", "out", "--weights", str(weights), "--backend", backend]
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{tmp_path / 'hidden'}:{ROOT}",
    }
    return arguments, variables | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_nothing_is_looked_up_or_written_elsewhere(
    tmp_path: Path, weights_folder: Path, backend: str
) -> None:
    pytest.importorskip(backend)
    arguments, variables = command(tmp_path, weights_folder, backend)
    done = subprocess.run([sys.executable, "-c", LISTEN, *arguments], cwd=tmp_path, env=variables,
                          capture_output=True, text=True, check=True)  # fmt: skip
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("socket.")] == []
    written = [line.removeprefix("writes ") for line in lines if line.startswith("writes ")]
    assert written, "the hook hears nothing"
    assert [name for name in written if not name.startswith(("out/", "/dev/"))] == []
    assert files_under(tmp_path / "home") == []
    assert files_under(tmp_path / "out") == ["ct_0.nii.gz", "series.nii.gz"]


def test_the_kernel_sees_no_look_up(tmp_path: Path, weights_folder: Path) -> None:
    """The same below Python: libraries in C++ have calls of their own."""
    pytest.importorskip("openvino")
    if (strace := shutil.which("strace")) is None:
        pytest.skip("NO STRACE: SYSTEM CALLS ARE NOT LOOKED AT")
    arguments, variables = command(tmp_path, weights_folder, "openvino")
    trace = tmp_path / "trace"
    traced = [strace, "-f", "-qq", "-e", "trace=network", "-o", str(trace)]
    done = subprocess.run([*traced, sys.executable, "-m", "inference", *arguments], cwd=tmp_path,
                          env=variables, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("NO RIGHT TO TRACE: SYSTEM CALLS ARE NOT LOOKED AT")
    assert done.returncode == 0, done.stderr
    calls = trace.read_text().splitlines()
    assert [call for call in calls if any(word in call for word in NETWORK_CALLS)] == []
    assert files_under(tmp_path / "home") == []


def test_a_home_that_cannot_be_written_costs_no_line(tmp_path: Path, weights_folder: Path) -> None:
    pytest.importorskip("openvino")
    arguments, variables = command(tmp_path, weights_folder, "openvino")
    variables["HOME"] = "/proc/nowhere"
    done = subprocess.run([sys.executable, "-m", "inference", *arguments], cwd=tmp_path, env=variables,
                          capture_output=True, text=True, check=True)  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "look at it" not in line]
    assert len(lines) == len(set(lines)) == 3
