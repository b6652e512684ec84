"""Progress within a case: stages in order, never back, and a bar that moves on a terminal."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from inference.runner.cases import find_cases
from inference.runner.progress import SHARES, CaseCounter, both, part_done
from inference.runner.report import CaseReport
from inference.runner.run import Options, run_cases
from tests.helpers import save_abdomens, threshold_cascade, truncate

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["read", "locate", "roi", "kidney", "components", "tumor", "restore", "write"]


def test_shares_make_up_a_case() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert part_done("read", 0) == 0
    assert part_done("read", 0.5) == SHARES["read"] / 2
    assert part_done("write", 0) == pytest.approx(1 - SHARES["write"])
    assert part_done("write", 1) == pytest.approx(1)
    assert part_done("something else", 1) == 0


def test_a_stage_is_told_when_it_begins_and_timed() -> None:
    report, told = CaseReport("a", "a.nii", "a.nii"), []
    progress = both(report.timer(), lambda stage, done: told.append((stage, done)))
    progress("kidney", 0.0)
    assert (told, report.seconds) == ([("kidney", 0)], {})
    progress("tumor", 0.0)
    assert set(report.seconds) == {"kidney"}


def test_a_counter_never_goes_back() -> None:
    told: list[tuple[str, float]] = []
    counter = CaseCounter(lambda what, done: told.append((what, done)))
    progress = counter.begin("b", 3)
    for share in (0.5, 0.2, -1.0, 7.0):  # once more on the CPU, and what nobody should tell
        progress("kidney", share)
    half, whole = (pytest.approx(3 + part_done("kidney", share)) for share in (0.5, 1))
    assert told == [("b: kidney", half)] * 3 + [("b: kidney", whole)]


def test_all_stages_of_all_cases_are_told_in_order(tmp_path: Path) -> None:
    paths = save_abdomens(tmp_path / "in", 3)
    truncate(paths[1])
    told: list[tuple[str, float]] = []
    run_cases(
        find_cases(tmp_path / "in"), threshold_cascade(), Options(tmp_path / "out"),
        progress=lambda what, done: told.append((what, done)),
    )  # fmt: skip
    stages: dict[str, list[str]] = {f"ct_{i}": [] for i in range(3)}
    for what, _ in told:
        name, stage = what.split(": ")
        if stage not in stages[name][-1:]:
            stages[name].append(stage)
    assert stages == {"ct_0": STAGES, "ct_1": ["read", "write"], "ct_2": STAGES}
    done = [n for _, n in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, pytest.approx(3 - SHARES["write"]))


def test_cases_passed_over_count(tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ct_0.nii.gz").write_bytes(b"there")
    told: list[float] = []
    run_cases(
        find_cases(tmp_path / "in"), threshold_cascade(), Options(tmp_path / "out", skip_existing=True),
        progress=lambda what, done: told.append(done),
    )  # fmt: skip
    assert told[0] == 1


def test_the_bar_of_one_case_moves_on_a_terminal(tmp_path: Path, weights_folder: Path) -> None:
    save_abdomens(tmp_path / "in", 1)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "inference", "--weights", weights_folder, "--threads", "1"]
    command += ["--input", tmp_path / "in", "--output", tmp_path / "out"]
    termios.tcsetwinsize(theirs, (24, 120))
    process = subprocess.Popen([str(w) for w in command], cwd=ROOT, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        text += piece
    assert process.wait(60) == 0
    os.close(ours)
    shown = text.decode(errors="replace")
    places = [shown.index(f"ct_0: {stage}") for stage in ("read", "kidney", "tumor", "write")]
    assert places == sorted(places)
    assert f"{100 * part_done('tumor', 0):3.0f}%" in shown
