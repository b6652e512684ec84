"""The code as it is written: ruff's rules and format, mypy's types (`pyproject.toml`)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_the_checkers_find_nothing(command: str, tmp_path: Path) -> None:
    name, *arguments = command.split()
    cache = ["--cache-dir", str(tmp_path)]  # nothing is left in the working tree
    targets = [] if name == "mypy" else ["."]
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *arguments, *cache, *targets],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
