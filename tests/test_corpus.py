"""Every bad or odd input gets its right answer; the test report ends with the table."""

from pathlib import Path

import pytest

from tests.robustness.corpus import KINDS, RESULTS, Kind, run_kind

LEAST_KINDS = 60


@pytest.mark.usefixtures("_untouched_process")
@pytest.mark.parametrize("one", KINDS, ids=lambda one: f"{one.area}: {one.name}")
def test_right_answer(one: Kind, weights_folder: Path) -> None:
    got = run_kind(one, weights_folder)
    RESULTS.append((one, got))
    assert not got.wrong
    assert got.outcome == one.expected
    assert one.says in got.said


@pytest.mark.usefixtures("_untouched_process")
@pytest.mark.parametrize(
    "one", [one for one in KINDS if one.expected == "fails"], ids=lambda one: f"{one.area}: {one.name}"
)
def test_on_error_background(one: Kind, weights_folder: Path) -> None:
    """A failed case gets an all-background map, or the log says that there can be none."""
    got = run_kind(one, weights_folder, on_error="background")
    assert not got.wrong
    assert got.outcome == "fails"


def test_kinds_are_many_and_each_is_its_own() -> None:
    names = {(one.area, one.name) for one in KINDS}
    assert len(names) == len(KINDS) >= LEAST_KINDS
