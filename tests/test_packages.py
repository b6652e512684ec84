"""The Python packages of an image: what is asked about them, by stand-ins for the engine and the programs."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_an_image_that_cannot_run_is_said_in_one_line(tmp_path: Path) -> None:
    _program(tmp_path / "engine", "echo no such image >&2; exit 125")
    done = _run(tmp_path, "--image", "absent", "list")
    assert done.returncode == 1
    assert "absent: its packages cannot be listed (no such image)" in done.stderr
    assert "Traceback" not in done.stderr
