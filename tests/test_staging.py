"""Files appear whole or not at all, and what a killed process left is removed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from inference.formats.staging import PREFIX, staged, sweep
from tests.helpers import files_under

ROOT = Path(__file__).resolve().parent.parent


def test_a_file_has_its_name_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with staged(target) as partial:
        partial.write_text("half")
        assert not target.exists()
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert files_under(tmp_path) == ["new", "new/a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("earlier")

    def fail_midway() -> None:
        with staged(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_midway()
    assert files_under(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "earlier"


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    """As root, /dev/null could be."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(OSError, match="is no regular file"), staged(tmp_path / name):
            pytest.fail("begun")
    assert files_under(tmp_path) == ["null", "pipe"]
    assert (tmp_path / "null").is_symlink()


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}dead").mkdir()
    (tmp_path / f"{PREFIX}dead" / "half.nii.gz").write_bytes(b"half")
    (tmp_path / "label.nii.gz").write_bytes(b"whole")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    with staged(tmp_path / "in_hand.txt") as partial:
        partial.write_text("in hand")
        # another process: a lock is no obstacle to the one that holds it
        code = (
            "from pathlib import Path; from inference.formats.staging import sweep; "
            f"sweep(Path({str(tmp_path)!r}))"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        assert not (tmp_path / f"{PREFIX}dead").exists()
        assert partial.read_text() == "in hand"
    os.unlink(tmp_path / f"{PREFIX}link")  # noqa: PTH108  a link is no folder of ours
    assert files_under(tmp_path) == ["elsewhere", "in_hand.txt", "label.nii.gz"]


def test_sweep_of_no_folder_is_nothing(tmp_path: Path) -> None:
    sweep(tmp_path / "absent")


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def make_and_sweep(**keywords: Any) -> str:
        made.append(make(**keywords))
        if len(made) == 1:
            sweep(tmp_path)
        return made[-1]

    monkeypatch.setattr("inference.formats.staging.tempfile.mkdtemp", make_and_sweep)
    with staged(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert len(made) == 2
    assert files_under(tmp_path) == ["a.txt"]
