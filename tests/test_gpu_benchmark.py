"""The processes that the benchmark of a GPU starts."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import Run, finish, samples

LONG = "import time; print('on', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {LONG}"


def _process(code: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _run(folder: Path) -> Run:
    return Run(folder, "cpu", time.monotonic() + 100, tiny=True)


def test_a_gpu_run_that_fails_leaves_no_cpu_run_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {}

    def start(run: Run, source: Path, label: str, *_: Any, **__: Any) -> "subprocess.Popen[str]":
        started[label] = _process(LONG if label == "cpu" else "raise SystemExit('no CUDA device')")
        return started[label]

    monkeypatch.setattr(gpu, "start", start)
    monkeypatch.setattr(gpu, "make_case", lambda *_: None)
    with pytest.raises(FileNotFoundError):  # its log and its report
        samples(_run(tmp_path), None)
    assert started.keys() == {"cpu", "float32"}
    assert all(process.returncode is not None for process in started.values())


@pytest.mark.parametrize("code", [LONG, DEAF])
def test_a_run_whose_time_is_up_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    process = _process(code)
    with pytest.raises(subprocess.TimeoutExpired):
        finish(Run(tmp_path, "cpu", time.monotonic(), tiny=True), process, "x")
    assert process.returncode is not None


def test_a_pass_and_a_step_are_measured(tmp_path: Path) -> None:
    for is_training in (False, True):
        row = gpu._measured(
            _run(tmp_path), 1, precision="float32", layout="contiguous", side=16, is_training=is_training
        )
        assert row.get("failed") is None
        assert row["seconds"] > 0
