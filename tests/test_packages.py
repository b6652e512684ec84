"""The Python packages of an image: what is asked about them, by stand-ins for the engine and the programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import packages

ROOT = Path(__file__).resolve().parent.parent


def _program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DOCKER": str(folder / "engine"), "PATH": f"{folder}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "deploy.packages", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False, env=environment
    )


def test_audit_asks_about_the_images_packages_and_passes_its_answer_on(tmp_path: Path) -> None:
    _program(tmp_path / "engine", "echo click==8.5.1; echo torch==2.13.0+cpu")
    _program(tmp_path / "pip-audit", 'echo "$@"; cat; exit 1')
    done = _run(tmp_path, "audit")
    assert done.returncode == 1, done.stderr
    options, *packages = done.stdout.splitlines()
    assert "--strict" in options.split()
    assert packages == ["click==8.5.1", "torch==2.13.0"]


SIZES = {
    "now": '{"pydicom": 5000000, "inference": 800000}',
    "before": '{"inference": 300000, "old": 1000000}',
}


def _engine_with_images(folder: Path) -> None:
    """An engine with two images of 110 and 100 MB; `save` gives a thousand zeros."""
    cases = "".join(f"*run*{name}*) echo '{sizes}' ;; " for name, sizes in SIZES.items())
    inspect = "*inspect*now*) echo 110000000 ;; *inspect*before*) echo 100000000 ;; "
    _program(folder / "engine", f'case "$*" in {inspect}{cases}save*) head -c 1000 /dev/zero ;; esac')


def test_sizes_tells_the_packages_the_rest_and_the_difference(tmp_path: Path) -> None:
    _engine_with_images(tmp_path)
    done = _run(tmp_path, "--image", "now", "sizes", "--against", "before")
    assert done.returncode == 0, done.stderr
    assert [line.split(maxsplit=2) for line in done.stdout.splitlines()] == [
        ["104.20", "+5.50", "Debian and Python"],
        ["5.00", "+5.00", "pydicom"],
        ["0.80", "+0.50", "inference"],
        ["110.00", "+10.00", "all"],
        ["0.00", "-1.00", "old"],
    ]


def test_sizes_packs_what_the_engine_saves(tmp_path: Path) -> None:
    _engine_with_images(tmp_path)
    done = _run(tmp_path, "--image", "now", "sizes", "--compressed")
    assert done.stdout.splitlines()[-1].split(maxsplit=1) == ["0.00", "all, compressed"]
    _program(tmp_path / "engine", 'case "$*" in *inspect*) echo 9 ;; *run*) echo "{}" ;; *) exit 1 ;; esac')
    done = _run(tmp_path, "--image", "gone", "sizes", "--compressed")
    assert (done.returncode, "gone: it cannot be saved" in done.stderr) == (1, True)


def test_an_image_that_cannot_run_is_said_in_one_line(tmp_path: Path) -> None:
    _program(tmp_path / "engine", "echo no such image >&2; exit 125")
    done = _run(tmp_path, "--image", "absent", "list")
    assert done.returncode == 1
    assert "absent: its packages cannot be listed (no such image)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("list",), ("sizes",), ("sizes", "--compressed"), ("audit",)])
@pytest.mark.parametrize("engine", ["absent", "not executable"])
def test_without_an_engine_one_line_says_so(tmp_path: Path, command: tuple[str, ...], engine: str) -> None:
    if engine != "absent":
        (tmp_path / "engine").touch()
    done = _run(tmp_path, *command)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / 'engine'}: no container engine" in line


def test_without_an_engine_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "DOCKER", str(tmp_path / "engine"))
    with pytest.raises(packages.NotInstalledError, match="no container engine"):
        packages.measure_compressed("image")


def test_a_program_that_is_not_installed_is_no_finding_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.NotInstalledError, match="pip-audit is not installed") as raised:
        packages._pipe(["click==8.5.1"], "pip-audit")
    assert raised.value.exit_code == 2
